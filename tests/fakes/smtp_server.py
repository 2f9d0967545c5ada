"""A mail server for tests: aiosmtpd, that does what the addresses say. Options: --help.

Listens on a port of the kernel's choice, prints `listening on PORT`, and ends when stdin does. Into DIRECTORY go `events`
(one line of JSON for each command) and a file for each mail that was taken, as Python's `email` package reads it.

A recipient whose address begins with `refused` is refused for good, `busy` for now, `once` the first time only.
A sender that begins with `banned`, `throttled`, `stopping`, `spam`, `later` or `silent` meets that; of one that
begins with `slow` mail is taken after five seconds.
"""

import argparse
import asyncio
import email
import email.policy
import itertools
import json
import logging
import os
import pathlib
import ssl
import sys
import threading
import warnings

from aiosmtpd.smtp import SMTP, AuthResult

SESSIONS = itertools.count()
MAILS = itertools.count()
AT_SENDER = {
    "banned": "550 5.7.1 {address} may not send here",
    "throttled": "421 4.7.0 try again later",
    "stopping": "421 4.3.2 shutting down",
}
AT_CONTENT = {"spam": "554 5.6.0 not taken", "later": "451 4.3.0 not now"}


def read(raw: bytes, sender: str, recipients: list) -> dict:
    """What a mail reader sees."""
    mail = email.message_from_bytes(raw, policy=email.policy.default)
    lines = raw.split(b"\r\n")
    return {
        "sender": sender,
        "recipients": recipients,
        "headers": [[name, str(value)] for name, value in mail.items()],
        "from": [[a.display_name, a.addr_spec] for a in mail["from"].addresses],
        "to": [a.addr_spec for a in mail["to"].addresses],
        "types": [part.get_content_type() for part in mail.walk()],
        "charsets": [part.get_content_charset() for part in mail.iter_parts()],
        "text": mail.get_body(("plain",)).get_content().replace("\r\n", "\n"),
        "html": mail.get_body(("html",)).get_content().replace("\r\n", "\n"),
        "defects": [str(d) for part in mail.walk() for d in part.defects]
        + [f"{name}: {d}" for name, value in mail.items() for d in getattr(value, "defects", ())],
        "longest": max(map(len, lines)),
        "clean": raw.isascii() and b"\n" not in raw.replace(b"\r\n", b"") and b"\r" not in raw.replace(b"\r\n", b""),
        "raw": raw.decode("ascii", "replace"),
    }


class Connection(SMTP):
    """One connection, with a number."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.number = next(SESSIONS)


class Handler:
    """Follows the addresses."""

    def __init__(self, directory: pathlib.Path):
        self.directory = directory
        self.events = open(directory / "events", "a", buffering=1, encoding="utf-8")
        self.seen = set()

    def note(self, server, *event):
        self.events.write(json.dumps([server.number, " ".join(event)]) + "\n")

    async def handle_EHLO(self, server, session, envelope, hostname, responses):
        self.note(server, "EHLO", hostname)
        session.host_name = hostname
        return responses

    def handle_STARTTLS(self, server, session, envelope):
        self.note(server, "STARTTLS")
        return True

    async def handle_NOOP(self, server, session, envelope, arg):
        self.note(server, "NOOP")
        return "250 OK"

    async def handle_QUIT(self, server, session, envelope):
        self.note(server, "QUIT")
        return "221 Bye"

    async def handle_MAIL(self, server, session, envelope, address, options):
        self.note(server, "MAIL", address)
        for start, answer in AT_SENDER.items():
            if address.startswith(start):
                return answer.format(address=address)
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 OK"

    async def handle_RCPT(self, server, session, envelope, address, options):
        self.note(server, "RCPT", address)
        if address.startswith("refused"):
            return f"550 5.1.1 <{address}>: nobody has this address"
        if address.startswith("busy") or (address.startswith("once") and address not in self.seen):
            self.seen.add(address)
            return f"451 4.2.1 <{address}>: not now"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        self.note(server, "DATA")
        if envelope.mail_from.startswith("silent"):
            await asyncio.sleep(3600)
        if envelope.mail_from.startswith("slow"):
            await asyncio.sleep(5)
        for start, answer in AT_CONTENT.items():
            if envelope.mail_from.startswith(start):
                return answer
        mail = read(envelope.content, envelope.mail_from, envelope.rcpt_tos)
        name = self.directory / f"{next(MAILS):04}.json"
        name.with_suffix(".part").write_text(json.dumps(mail))
        name.with_suffix(".part").rename(name)
        return "250 OK"

    def authenticate(self, username: str, password: str):
        def check(server, session, envelope, mechanism, given):
            self.note(server, "AUTH", mechanism, "encrypted" if server.transport.get_extra_info("ssl_object") else "plain")
            if (given.login, given.password) == (username.encode(), password.encode()):
                return AuthResult(success=True, auth_data=given)
            # A server that says too much: the client must not repeat it.
            said = f"535 5.7.8 {given.login.decode()} is not let in with {given.password.decode()}"
            return AuthResult(success=False, handled=False, message=said)

        return check


async def serve(options) -> None:
    handler = Handler(pathlib.Path(options.directory))
    context = None
    if options.tls != "none":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(options.cert, options.key)
    loop = asyncio.get_running_loop()
    settings = {"hostname": "mail.test", "loop": loop, "auth_require_tls": options.tls == "starttls"}
    if options.tls == "starttls":
        settings |= {"tls_context": context, "require_starttls": True}
    if options.username:
        settings |= {
            "auth_required": True,
            "authenticator": handler.authenticate(options.username, options.password),
            "auth_exclude_mechanism": options.without,
        }
    else:
        settings["auth_exclude_mechanism"] = ["PLAIN", "LOGIN"]
    implicit = context if options.tls == "implicit" else None
    server = await loop.create_server(lambda: Connection(handler, **settings), options.host, 0, ssl=implicit)
    print("listening on", server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--tls", choices=["starttls", "implicit", "none"], default="none")
    parser.add_argument("--cert")
    parser.add_argument("--key")
    parser.add_argument("--username", help="who may log in, and must; without it the server offers no login")
    parser.add_argument("--password", default="")
    parser.add_argument("--without", action="append", default=[], metavar="MECHANISM")
    options = parser.parse_args()
    logging.disable()
    # That is what a test without encryption wants.
    warnings.filterwarnings("ignore", message="Requiring AUTH while not requiring TLS")
    threading.Thread(target=lambda: (sys.stdin.buffer.read(), os._exit(0)), daemon=True).start()
    asyncio.run(serve(options))


if __name__ == "__main__":
    main()
