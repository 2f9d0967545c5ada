"""A fake of one Azure Key Vault (secrets only) and of the part of Microsoft Entra ID that hands out its access tokens.

usage: azure_key_vault.py --cert FILE --key FILE [--port N] [--client-secret S] [--permissions a,b] …

Prints `listening on PORT` and serves HTTPS on loopback; both services share the port, which is also the authority
that the vault's challenge names. What is faithful and what is not: README.md beside it.
"""

import base64
import binascii
import dataclasses
import json
import re
import secrets
import ssl
import threading
import time
import urllib.parse
import uuid
from collections.abc import Callable
from typing import Any

from serving import Reply, Request, arguments, audiences, in_time, jwt, names, serve, unpadded

VERSIONS = {"2015-06-01", "2016-10-01", "7.0", "7.1", "7.2", "7.3", "7.4", "7.5", "7.6", "2025-07-01", "2026-04-01"}
MAX_VALUE = 25 * 1024
MAX_TAGS = 15
MAX_TAG = 256
MAX_CONTENT_TYPE = 255
MAX_PAGE = 25
RECOVERABLE_DAYS = 90

RESOURCE = "https://vault.azure.net"
FEDERATION_AUDIENCE = "api://AzureADTokenExchange"
ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

PATH = re.compile(r"/(?P<collection>secrets|deletedsecrets)(?:/(?P<name>[^/]+)(?:/(?P<rest>[^/]*))?)?")
ENTRA = re.compile(r"/(?P<tenant>[^/]+)(?P<endpoint>/oauth2/v2\.0/token|/v2\.0/\.well-known/openid-configuration)")
NAME = re.compile(r"[0-9a-zA-Z-]{1,127}")
VERSION = re.compile(r"[0-9a-fA-F]{32}")
# What may be asked of one name besides its versions.
VERBS = {"versions", "recover"}


class Refusal(Exception):
    """An error in the vault's form."""

    def __init__(self, status: int, code: str, message: str, inner: str | None = None):
        super().__init__(message)
        self.status, self.code, self.message, self.inner = status, code, message, inner

    def reply(self) -> Reply:
        error: dict[str, Any] = {"code": self.code, "message": self.message}
        return Reply(self.status, {"error": error | ({"innererror": {"code": self.inner}} if self.inner else {})})


class EntraRefusal(Exception):
    """An error of the token endpoint, in Entra's form."""

    def __init__(self, status: int, error: str, code: int, message: str):
        super().__init__(message)
        self.status, self.error, self.code, self.message = status, error, code, message

    def reply(self) -> Reply:
        trace, correlation = str(uuid.uuid4()), str(uuid.uuid4())
        at = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime())
        where = f"Trace ID: {trace} Correlation ID: {correlation} Timestamp: {at}"
        body = {
            "error": self.error,
            "error_description": f"AADSTS{self.code}: {self.message} {where}",
            "error_codes": [self.code],
            "timestamp": at,
            "trace_id": trace,
            "correlation_id": correlation,
            "error_uri": f"https://login.microsoftonline.com/error?code={self.code}",
        }
        return Reply(self.status, body)


@dataclasses.dataclass
class Version:
    id: str
    value: str
    created: int
    updated: int
    content_type: str | None = None
    enabled: bool = True
    nbf: int | None = None
    exp: int | None = None
    tags: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Secret:
    """All versions of one name. `state` changed at `moved` (monotonic): with --slow-delete that takes a while."""

    name: str
    versions: list[Version] = dataclasses.field(default_factory=list)
    state: str = "active"
    moved: float = 0.0
    deleted: int = 0

    @property
    def current(self) -> Version:
        return self.versions[-1]


class Fake:
    """All state, behind one lock."""

    def __init__(self, options: Any):
        self.options = options
        self.lock = threading.Lock()
        # By lower-case name: names are case-insensitive.
        self.secrets: dict[str, Secret] = {}
        # Access tokens: when each ends, and whose it is.
        self.issued: dict[str, tuple[float, str]] = {}

    def answer(self, request: Request) -> Reply:
        with self.lock:
            try:
                return self.entra(request) or self.vault(request)
            except (EntraRefusal, Refusal) as refusal:
                return refusal.reply()

    # The vault.

    def vault(self, request: Request) -> Reply:
        refused = self.challenge(request)
        if refused:
            return refused
        if request.query.get("api-version") not in VERSIONS:
            raise Refusal(400, "BadParameter", "The request URI contains a missing or unsupported api-version.")
        path = PATH.fullmatch(request.path)
        if not path:
            raise Refusal(404, "NotFound", "The fake does not know this path.")
        operation = OPERATIONS.get((request.method, path["collection"], level(path)))
        if not operation:
            raise Refusal(405, "MethodNotAllowed", "The request method is not allowed on this path.")
        if path["name"] and not NAME.fullmatch(path["name"]):
            raise Refusal(400, "BadParameter", f"The request URI contains an invalid name: {path['name']}")
        permission, action, run = operation
        self.authorize(request, permission, action)
        body = run(self, request, path)
        return Reply(204 if body is None else 200, body)

    def challenge(self, request: Request) -> Reply | None:
        """The answer to a request without a good access token: where to get one. It comes before anything else."""
        token = request.bearer()
        if token and self.issued.get(token, (0, ""))[0] > time.time():
            return None
        missing = "AKV10000: Request is missing a Bearer or PoP token."
        message = missing if token is None else "The access token is invalid."
        authority = f"https://{request.host}/{self.options.tenant}"
        header = f'Bearer authorization="{authority}", resource="{RESOURCE}"'
        return Reply(401, {"error": {"code": "Unauthorized", "message": message}}, {"WWW-Authenticate": header})

    def authorize(self, request: Request, permission: str, action: str) -> None:
        """Access policies know permissions, RBAC knows data actions; either is enough for what the options leave out."""
        options = self.options
        client = self.issued[request.bearer() or ""][1]
        if options.limited and client != options.limited:
            return
        if options.permissions is not None and permission not in options.permissions:
            message = f"The user, group or application does not have secrets {permission} permission on key vault."
            raise Refusal(403, "Forbidden", message, "ForbiddenByPolicy")
        action = f"Microsoft.KeyVault/vaults/secrets/{action}"
        if options.data_actions is not None and action not in options.data_actions:
            message = f"Caller is not authorized to perform action on resource.\r\nAction: '{action}'"
            raise Refusal(403, "Forbidden", message, "ForbiddenByRbac")

    def set_secret(self, request: Request, path: re.Match[str]) -> dict[str, Any]:
        fields = body(request)
        value = fields.get("value")
        if not isinstance(value, str):
            raise Refusal(400, "BadParameter", "The parameter value is required.")
        if len(value.encode()) > MAX_VALUE:
            raise Refusal(400, "BadParameter", f"Secret value exceeds the size limit of {MAX_VALUE} bytes.")
        now = int(time.time())
        version = Version(uuid.uuid4().hex, value, now, now)
        change(version, fields)
        name = path["name"].lower()
        self.refuse_conflict(path["name"])
        # The name keeps the letters in which it was first written.
        secret = self.secrets.setdefault(name, Secret(path["name"]))
        secret.versions.append(version)
        return bundle(request, secret, version, value=True)

    def get_secret(self, request: Request, path: re.Match[str]) -> dict[str, Any]:
        secret = self.active(path["name"])
        version = find_version(secret, path["rest"])
        if not version.enabled:
            raise Refusal(403, "Forbidden", "Operation get is not allowed on a disabled secret.", "SecretDisabled")
        return bundle(request, secret, version, value=True)

    def patch_secret(self, request: Request, path: re.Match[str]) -> dict[str, Any]:
        secret = self.active(path["name"])
        version = find_version(secret, path["rest"])
        change(version, body(request))
        version.updated = int(time.time())
        return bundle(request, secret, version)

    def list_secrets(self, request: Request, path: re.Match[str]) -> dict[str, Any]:
        found = [self.secrets[name] for name in sorted(self.secrets) if self.is_active(self.secrets[name])]
        return page(request, [item(request, secret, secret.current, named=False) for secret in found])

    def list_versions(self, request: Request, path: re.Match[str]) -> dict[str, Any]:
        secret = self.active(path["name"])
        # By id, which is random: the order says nothing about age.
        found = sorted(secret.versions, key=lambda version: version.id)
        return page(request, [item(request, secret, version) for version in found])

    def delete_secret(self, request: Request, path: re.Match[str]) -> dict[str, Any]:
        secret = self.active(path["name"])
        if not self.is_settled(secret):
            raise self.conflict(secret)
        secret.state, secret.moved, secret.deleted = "deleted", time.monotonic(), int(time.time())
        return deleted(request, secret)

    def get_deleted(self, request: Request, path: re.Match[str]) -> dict[str, Any]:
        return deleted(request, self.deleted(path["name"]))

    def list_deleted(self, request: Request, path: re.Match[str]) -> dict[str, Any]:
        found = [self.secrets[name] for name in sorted(self.secrets) if self.is_deleted(self.secrets[name])]
        return page(request, [deleted(request, secret, named=False) for secret in found])

    def purge(self, request: Request, path: re.Match[str]) -> None:
        self.deleted(path["name"])
        del self.secrets[path["name"].lower()]

    def recover(self, request: Request, path: re.Match[str]) -> dict[str, Any]:
        secret = self.deleted(path["name"])
        secret.state, secret.moved = "active", time.monotonic()
        return bundle(request, secret, secret.current)

    def active(self, name: str) -> Secret:
        secret = self.secrets.get(name.lower())
        if secret is None or not self.is_active(secret):
            message = f"A secret with (name/id) {name} was not found in this key vault."
            raise Refusal(404, "SecretNotFound", message)
        return secret

    def deleted(self, name: str) -> Secret:
        secret = self.secrets.get(name.lower())
        if secret is None or not self.is_deleted(secret):
            raise Refusal(404, "SecretNotFound", f"Deleted Secret not found: {name}")
        return secret

    def is_active(self, secret: Secret) -> bool:
        return secret.state == "active" and self.since(secret) >= self.options.slow_delete

    def is_deleted(self, secret: Secret) -> bool:
        return secret.state == "deleted" and self.since(secret) >= self.options.slow_delete

    def is_settled(self, secret: Secret) -> bool:
        """Whether it may be written. For a while after a recovery it can be read and yet not be written."""
        return secret.state == "active" and self.since(secret) >= 1.5 * self.options.slow_delete

    def since(self, secret: Secret) -> float:
        """Milliseconds since it was deleted or recovered."""
        return (time.monotonic() - secret.moved) * 1000 if secret.moved else float("inf")

    def refuse_conflict(self, name: str) -> None:
        secret = self.secrets.get(name.lower())
        if secret is not None and not self.is_settled(secret):
            raise self.conflict(secret)

    def conflict(self, secret: Secret) -> Refusal:
        if self.is_deleted(secret):
            text = (
                f"Secret {secret.name} is currently in a deleted but recoverable state, and its name cannot be reused; "
                "in this state, the secret can only be recovered or purged."
            )
            return Refusal(409, "Conflict", text, "ObjectIsDeletedButRecoverable")
        doing, inner = ("deleted", "Deleted") if secret.state == "deleted" else ("recovered", "Recovered")
        text = f"Secret {secret.name} is currently being {doing} and cannot be re-created; retry later."
        return Refusal(409, "Conflict", text, f"ObjectIsBeing{inner}")

    # Microsoft Entra ID.

    def entra(self, request: Request) -> Reply | None:
        if (request.method, request.path) == ("POST", "/_fake/revoke"):
            self.issued.clear()
            return Reply(204)
        if (request.method, request.path) == ("GET", "/common/discovery/instance"):
            return Reply(200, self.instance(request))
        path = ENTRA.fullmatch(request.path)
        if not path:
            return None
        if path["tenant"].lower() != self.options.tenant.lower():
            raise EntraRefusal(400, "invalid_request", 90002, f"Tenant '{path['tenant']}' not found.")
        if request.method == "POST" and path["endpoint"].endswith("/token"):
            return Reply(200, self.token(request), {"Cache-Control": "no-store"})
        return Reply(200, self.openid_configuration(request)) if request.method == "GET" else None

    def instance(self, request: Request) -> dict[str, Any]:
        hosts = {"preferred_network": request.host, "preferred_cache": request.host, "aliases": [request.host]}
        discovery = f"https://{request.host}/{self.options.tenant}/v2.0/.well-known/openid-configuration"
        return {"tenant_discovery_endpoint": discovery, "api-version": "1.1", "metadata": [hosts]}

    def openid_configuration(self, request: Request) -> dict[str, Any]:
        base = f"https://{request.host}/{self.options.tenant}"
        return {
            "issuer": f"{base}/v2.0",
            "token_endpoint": f"{base}/oauth2/v2.0/token",
            "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
            "jwks_uri": f"{base}/discovery/v2.0/keys",
            "token_endpoint_auth_methods_supported": ["client_secret_post", "private_key_jwt"],
            "response_types_supported": ["code"],
            "subject_types_supported": ["pairwise"],
            "id_token_signing_alg_values_supported": ["RS256"],
        }

    def token(self, request: Request) -> dict[str, Any]:
        """The client credentials grant, with a secret or with a federated token."""
        try:
            form = request.form()
        except ValueError:
            form = {}
        if form.get("grant_type") != "client_credentials":
            raise EntraRefusal(400, "unsupported_grant_type", 70003, "The app requested an unsupported grant type.")
        client = form.get("client_id", "")
        if not client or (self.options.client_id and client != self.options.client_id):
            message = f"Application with identifier '{client}' was not found in the directory."
            raise EntraRefusal(400, "unauthorized_client", 700016, message)
        if form.get("scope") != f"{RESOURCE}/.default":
            message = "The provided value for the input parameter 'scope' is not valid."
            raise EntraRefusal(400, "invalid_scope", 70011, message)
        if "client_assertion" in form:
            self.check_assertion(form, client)
        elif "client_secret" in form:
            self.check_client_secret(form["client_secret"])
        else:
            message = "'client_assertion' or 'client_secret' is required for the 'client_credentials' grant type."
            raise EntraRefusal(401, "invalid_client", 7000216, message)
        life = self.options.token_lifetime
        answer = {"token_type": "Bearer", "expires_in": life, "ext_expires_in": life}
        return answer | {"access_token": self.issue(request, client)}

    def check_client_secret(self, given: str) -> None:
        good = self.options.client_secret
        if not given or (good and not secrets.compare_digest(given.encode(), good.encode())):
            raise EntraRefusal(401, "invalid_client", 7000215, "Invalid client secret provided.")

    def check_assertion(self, form: dict[str, str], client: str) -> None:
        if form.get("client_assertion_type") != ASSERTION_TYPE:
            message = "The request body must contain the parameter 'client_assertion_type'."
            raise EntraRefusal(400, "invalid_request", 900144, message)
        _, claims = jwt(form["client_assertion"]) or ({}, {})
        if not claims.get("iss") or not claims.get("sub"):
            raise EntraRefusal(401, "invalid_client", 50027, "JWT token is invalid or malformed.")
        if not in_time(claims, leeway=300):
            raise EntraRefusal(401, "invalid_client", 700024, "Client assertion is not within its valid time range.")
        if FEDERATION_AUDIENCE not in audiences(claims):
            raise self.no_federation(700212, "audience")
        if self.options.issuer and claims["iss"] != self.options.issuer:
            raise self.no_federation(700211, "issuer")
        if self.options.subject and claims["sub"] != self.options.subject:
            raise self.no_federation(700213, "subject")

    def no_federation(self, code: int, what: str) -> EntraRefusal:
        message = f"No matching federated identity record found for presented assertion {what}."
        return EntraRefusal(401, "invalid_client", code, message)

    def issue(self, request: Request, client: str) -> str:
        now = int(time.time())
        claims = {
            "aud": RESOURCE,
            "iss": f"https://{request.host}/{self.options.tenant}/",
            "iat": now,
            "nbf": now,
            "exp": now + self.options.token_lifetime,
            "appid": client,
            "tid": self.options.tenant,
            "uti": secrets.token_urlsafe(16),
        }
        parts = [encoded({"typ": "JWT", "alg": "RS256"}), encoded(claims), secrets.token_urlsafe(256)]
        token = ".".join(parts)
        self.issued[token] = (claims["exp"], client)
        return token


# By method, collection and what of it; with the permission of access policies and the data action of RBAC that it needs.
OPERATIONS: dict[tuple[str, str, str], tuple[str, str, Callable[..., dict[str, Any] | None]]] = {
    ("GET", "secrets", "all"): ("list", "readMetadata/action", Fake.list_secrets),
    ("PUT", "secrets", "name"): ("set", "setSecret/action", Fake.set_secret),
    ("GET", "secrets", "name"): ("get", "getSecret/action", Fake.get_secret),
    ("GET", "secrets", "version"): ("get", "getSecret/action", Fake.get_secret),
    ("PATCH", "secrets", "name"): ("set", "update/action", Fake.patch_secret),
    ("PATCH", "secrets", "version"): ("set", "update/action", Fake.patch_secret),
    ("DELETE", "secrets", "name"): ("delete", "delete", Fake.delete_secret),
    ("GET", "secrets", "versions"): ("list", "readMetadata/action", Fake.list_versions),
    ("GET", "deletedsecrets", "all"): ("list", "readMetadata/action", Fake.list_deleted),
    ("GET", "deletedsecrets", "name"): ("get", "readMetadata/action", Fake.get_deleted),
    ("DELETE", "deletedsecrets", "name"): ("purge", "purge/action", Fake.purge),
    ("POST", "deletedsecrets", "recover"): ("recover", "recover/action", Fake.recover),
}


def level(path: re.Match[str]) -> str:
    if not path["name"]:
        return "all"
    # Clients ask for the current version with a trailing slash, or without.
    if not path["rest"]:
        return "name"
    return path["rest"] if path["rest"] in VERBS else "version"


def body(request: Request) -> dict[str, Any]:
    try:
        return request.json()
    except ValueError:
        raise Refusal(400, "BadParameter", "The request body is not a JSON object.") from None


def change(version: Version, fields: dict[str, Any]) -> None:
    """Sets what the request names and leaves the rest alone; tags are replaced as a whole. All or nothing."""
    attributes = fields.get("attributes") or {}
    if not isinstance(attributes, dict):
        raise Refusal(400, "BadParameter", "attributes must be an object.")
    changes: dict[str, Any] = {}
    for name in ("nbf", "exp"):
        if attributes.get(name) is not None:
            changes[name] = instant(name, attributes[name])
    if attributes.get("enabled") is not None:
        changes["enabled"] = boolean("enabled", attributes["enabled"])
    if fields.get("tags") is not None:
        changes["tags"] = tags(fields["tags"])
    if fields.get("contentType") is not None:
        changes["content_type"] = content_type(fields["contentType"])
    for name, value in changes.items():
        setattr(version, name, value)


def instant(name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise Refusal(400, "BadParameter", f"The attribute {name} must be a number of seconds since 1970.")
    return value


def boolean(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise Refusal(400, "BadParameter", f"The attribute {name} must be true or false.")
    return value


def content_type(value: Any) -> str:
    if not isinstance(value, str) or len(value) > MAX_CONTENT_TYPE:
        raise Refusal(400, "BadParameter", f"contentType must be a string of at most {MAX_CONTENT_TYPE} characters.")
    return value


def tags(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise Refusal(400, "BadParameter", "tags must be a map of strings.")
    if len(value) > MAX_TAGS or any(len(text) > MAX_TAG for pair in value.items() for text in pair):
        rule = f"At most {MAX_TAGS} tags, with names and values of at most {MAX_TAG} characters."
        raise Refusal(400, "BadParameter", rule)
    return dict(value)


def find_version(secret: Secret, wanted: str | None) -> Version:
    if not wanted:
        return secret.current
    if not VERSION.fullmatch(wanted):
        raise Refusal(400, "BadParameter", f"The request URI contains an invalid version: {wanted}")
    for version in secret.versions:
        if version.id == wanted.lower():
            return version
    message = f"A secret with (name/id) {secret.name}/{wanted} was not found in this key vault."
    raise Refusal(404, "SecretNotFound", message)


def bundle(request: Request, secret: Secret, version: Version, value: bool = False) -> dict[str, Any]:
    return ({"value": version.value} if value else {}) | item(request, secret, version)


def item(request: Request, secret: Secret, version: Version, named: bool = True) -> dict[str, Any]:
    """A version without its value; `named`: with its version in the id, which lists of secrets leave out."""
    attributes = {
        "enabled": version.enabled,
        "nbf": version.nbf,
        "exp": version.exp,
        "created": version.created,
        "updated": version.updated,
        "recoveryLevel": "Recoverable+Purgeable",
        "recoverableDays": RECOVERABLE_DAYS,
    }
    base = f"https://{request.host}/secrets/{secret.name}"
    fields = {
        "contentType": version.content_type,
        "id": f"{base}/{version.id}" if named else base,
        "attributes": {name: field for name, field in attributes.items() if field is not None},
        "tags": version.tags or None,
    }
    return {name: field for name, field in fields.items() if field is not None}


def deleted(request: Request, secret: Secret, named: bool = True) -> dict[str, Any]:
    times = {"deletedDate": secret.deleted, "scheduledPurgeDate": secret.deleted + RECOVERABLE_DAYS * 86400}
    recovery = {"recoveryId": f"https://{request.host}/deletedsecrets/{secret.name}"}
    return recovery | times | item(request, secret, secret.current, named)


def page(request: Request, items: list[dict[str, Any]]) -> dict[str, Any]:
    try:
        size = int(request.query.get("maxresults", MAX_PAGE))
        start = int(unpadded(request.query.get("$skiptoken") or "MA"))
    except (ValueError, binascii.Error):
        size = start = -1
    if not 1 <= size <= MAX_PAGE or start < 0:
        raise Refusal(400, "BadParameter", f"maxresults must be 1 to {MAX_PAGE}, $skiptoken one of this service.")
    end = start + size
    if end >= len(items):
        return {"value": items[start:end], "nextLink": None}
    token = base64.urlsafe_b64encode(str(end).encode()).decode()
    query = {"api-version": request.query["api-version"], "$skiptoken": token, "maxresults": str(size)}
    link = f"https://{request.host}{request.path}?{urllib.parse.urlencode(query)}"
    return {"value": items[start:end], "nextLink": link}


def encoded(value: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def main() -> None:
    parser = arguments("A fake of Azure Key Vault.")
    parser.add_argument("--cert", required=True, help="its certificate (PEM)")
    parser.add_argument("--key", required=True, help="the certificate's key (PEM)")
    parser.add_argument("--tenant", default="00000000-0000-0000-0000-000000000001", help="the tenant that exists")
    parser.add_argument("--client-id", help="the application that exists; default: every one")
    parser.add_argument("--client-secret", help="its secret; default: every one is good")
    parser.add_argument("--issuer", help="the iss that federated tokens must have; default: any")
    parser.add_argument("--subject", help="the sub that federated tokens must have; default: any")
    parser.add_argument("--token-lifetime", type=int, default=3599, help="of access tokens, in seconds")
    parser.add_argument("--permissions", type=names, help="what callers may do: get,list,set,…; default: all")
    parser.add_argument("--data-actions", type=names, help="the same in terms of RBAC: full names; default: all")
    parser.add_argument("--limited", metavar="CLIENT", help="the application that this limits; default: every one")
    parser.add_argument("--slow-delete", type=int, default=0, metavar="MS", help="how long deletion and recovery take")
    options = parser.parse_args()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(options.cert, options.key)
    serve(options.port, Fake(options).answer, tls)


if __name__ == "__main__":
    main()
