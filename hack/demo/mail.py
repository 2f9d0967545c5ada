"""A reader of mail: shows the last one that the mail server took, and answers one question about it.

usage: mail.py DIRECTORY show|header NAME|parts|names TEXT|lacks < secrets

DIRECTORY is where tests/fakes/smtp_server.py puts mails. `show` prints the headers and the text, `header` one of them,
`parts` the types of the mail and its parts, `names` the types of the parts that have TEXT; `lacks` says whether none of
stdin's words is in any header or part, as it was sent or as it is read.
"""

import email
import email.policy
import json
import pathlib
import sys


def last(directory: str) -> email.message.EmailMessage:
    newest = max(pathlib.Path(directory).glob("*.json"))
    raw = json.loads(newest.read_text())["raw"]
    return email.message_from_string(raw, policy=email.policy.default)


def texts(mail: email.message.EmailMessage) -> dict[str, str]:
    """Each part as a person reads it, by type."""
    return {part.get_content_type(): part.get_content() for part in mail.iter_parts()}


def show(mail: email.message.EmailMessage) -> str:
    headers = "\n".join(f"{name}: {value}" for name, value in mail.items() if not name.startswith(("MIME-", "Content-")))
    return f"{headers}\n\n{texts(mail)['text/plain'].rstrip()}"


def lacks(mail: email.message.EmailMessage, secrets: list[str]) -> bool:
    places = [mail.as_string(), *(str(value) for value in mail.values()), *texts(mail).values()]
    return bool(secrets) and not any(secret in place for secret in secrets for place in places)


def main(directory: str, question: str, *words: str) -> None:
    mail = last(directory)
    if question == "show":
        print(show(mail))
    elif question == "header":
        print(mail[words[0]])
    elif question == "parts":
        print(mail.get_content_type(), *texts(mail))
    elif question == "names":
        print(*(kind for kind, text in texts(mail).items() if words[0] in text))
    elif question == "lacks":
        print(str(lacks(mail, sys.stdin.read().split())).lower())
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main(*sys.argv[1:])
