"""A fake of Google Secret Manager (REST, v1) and of the endpoints that hand out its access tokens.

usage: google_secret_manager.py [--port N] [--token T | --issued-tokens] [--permissions a,b] …

Prints `listening on PORT` and serves plain HTTP on loopback. What is faithful and what is not: README.md beside it.
"""

import base64
import binascii
import dataclasses
import datetime
import functools
import hashlib
import itertools
import re
import secrets
import threading
import time
import unicodedata
from collections.abc import Callable, Iterable
from typing import Any

from serving import Reply, Request, arguments, audiences, in_time, jwt, names, serve, unpadded

MAX_PAYLOAD = 64 * 1024
MAX_ANNOTATIONS = 16 * 1024
MAX_PAGE = 25_000

CODES = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "UNIMPLEMENTED": 501,
}
STATES = {"ENABLED": 1, "DISABLED": 2, "DESTROYED": 3}

# What a Secret may have in a request. The fake has no behaviour for the last group and refuses it.
OUTPUT_ONLY = {"name", "createTime"}
MUTABLE = {"labels", "annotations", "versionAliases", "customerManagedEncryption"}
UNKNOWN_TO_THE_FAKE = {"expireTime", "ttl", "topics", "rotation", "versionDestroyTtl", "tags", "secretType"}
SECRET_FIELDS = OUTPUT_ONLY | MUTABLE | UNKNOWN_TO_THE_FAKE | {"etag", "replication"}

PATH = re.compile(
    r"/v1/projects/(?P<project>[^/:]+)(?:/locations/(?P<location>[^/:]+))?/secrets"
    r"(?:/(?P<secret>[^/:]+)(?P<versions>/versions(?:/(?P<version>[^/:]+))?)?)?(?::(?P<verb>[A-Za-z]+))?"
)
IMPERSONATE = re.compile(r"/v1/projects/-/serviceAccounts/(?P<email>[^/:]+):generateAccessToken")
SECRET_ID = re.compile(r"[A-Za-z0-9_-]{1,255}")
PROJECT = re.compile(r"[a-z][a-z0-9-]{4,28}[a-z0-9]|[0-9]{1,19}")
ANNOTATION_KEY = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
ALIAS = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,62}")
KMS_KEY = re.compile(r"projects/[^/]+/locations/(?P<location>[^/]+)/keyRings/[^/]+/cryptoKeys/[^/]+")
POOL = re.compile(
    r"//iam\.googleapis\.com/projects/[0-9]+/locations/global/workloadIdentityPools/[^/]+/providers/[^/]+"
)

JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
TOKEN_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"
SUBJECT_TOKENS = {"urn:ietf:params:oauth:token-type:jwt", "urn:ietf:params:oauth:token-type:id_token"}
SERVICE = "https://secretmanager.googleapis.com/"


class Refusal(Exception):
    """An error in Google's form."""

    def __init__(self, status: str, message: str, reason: str | None = None, **metadata: str):
        super().__init__(message)
        self.status, self.message, self.reason, self.metadata = status, message, reason, metadata

    def reply(self) -> Reply:
        error: dict[str, Any] = {"code": CODES[self.status], "message": self.message, "status": self.status}
        if self.reason:
            info = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": self.reason}
            error["details"] = [info | {"domain": "googleapis.com", "metadata": self.metadata}]
        challenge = {"WWW-Authenticate": 'Bearer realm="https://accounts.google.com/"'}
        return Reply(error["code"], {"error": error}, challenge if error["code"] == 401 else {})


class OAuthRefusal(Exception):
    """An error of a token endpoint (RFC 6749, section 5.2)."""

    def __init__(self, error: str, description: str):
        super().__init__(description)
        self.body = {"error": error, "error_description": description}


@dataclasses.dataclass
class Version:
    number: int
    data: bytes | None
    checked: bool
    key: str | None
    etag: str
    created: str
    state: str = "ENABLED"
    destroyed: str | None = None


@dataclasses.dataclass
class Secret:
    name: str
    replication: dict[str, Any] | None
    etag: str
    created: str
    labels: dict[str, str] = dataclasses.field(default_factory=dict)
    annotations: dict[str, str] = dataclasses.field(default_factory=dict)
    aliases: dict[str, int] = dataclasses.field(default_factory=dict)
    encryption: dict[str, str] | None = None
    versions: list[Version] = dataclasses.field(default_factory=list)


class Fake:
    """All state, behind one lock."""

    def __init__(self, options: Any):
        self.options = options
        self.lock = threading.Lock()
        # By parent: `projects/NUMBER` or `projects/NUMBER/locations/LOCATION`.
        self.parents: dict[str, dict[str, Secret]] = {}
        self.issued: dict[str, float] = {}
        self.etags = itertools.count(time.time_ns() // 1000)

    def answer(self, request: Request) -> Reply:
        with self.lock:
            try:
                return self.token_endpoint(request) or self.api(request)
            except OAuthRefusal as refusal:
                return Reply(400, refusal.body)
            except Refusal as refusal:
                return refusal.reply()

    # The API.

    def api(self, request: Request) -> Reply:
        path = PATH.fullmatch(request.path)
        operation = path and OPERATIONS.get((request.method, level(path), path["verb"]))
        if not path or not operation:
            # As the real service does it: an unknown path is no business of the API, and its answer is no JSON.
            return Reply(404, "<!DOCTYPE html><title>Error 404 (Not Found)!!1</title>")
        self.authenticate(request)
        parent = self.parent(path)
        permission, run = operation
        self.authorize(permission, request.path.removeprefix("/v1/"))
        return Reply(200, run(self, request, parent, path))

    def authenticate(self, request: Request) -> None:
        options = self.options
        token = request.bearer()
        if not (options.token or options.issued_tokens or options.service_account):
            return
        good = token is not None and bool(
            (options.token and secrets.compare_digest(token.encode(), options.token.encode()))
            or self.issued.get(token, 0) > time.time()
            or self.signed_by_service_account(token)
        )
        if not good:
            raise Refusal("UNAUTHENTICATED", "the access token is missing or invalid", "ACCESS_TOKEN_INVALID")

    def signed_by_service_account(self, token: str) -> bool:
        """A JWT that a service account signed itself serves as access token (AIP-4111): for an audience or a scope."""
        header, claims = jwt(token) or ({}, {})
        email = claims.get("iss")
        return (
            email in self.options.service_account
            and claims.get("sub") == email
            and header.get("alg") == "RS256"
            and bool(header.get("kid"))
            and in_time(claims)
            and claims["exp"] - claims.get("iat", 0) <= 3660
            and (claims.get("aud") == SERVICE or "cloud-platform" in claims.get("scope", ""))
        )

    def authorize(self, permission: str, resource: str) -> None:
        allowed = self.options.permissions
        if allowed is not None and permission not in allowed:
            message = f"Permission '{permission}' denied for resource '{resource}' (or it may not exist)."
            raise Refusal("PERMISSION_DENIED", message, "IAM_PERMISSION_DENIED", permission=permission)

    def parent(self, path: re.Match[str]) -> str:
        project = path["project"]
        if not PROJECT.fullmatch(project):
            raise Refusal("INVALID_ARGUMENT", f"Invalid resource field value in the request: project [{project}].")
        known = {alike for name in self.options.project for alike in (name, number_of(name))}
        if known and project not in known:
            raise Refusal("PERMISSION_DENIED", f"Permission denied on resource project {project}.", "CONSUMER_INVALID")
        location = f"/locations/{path['location']}" if path["location"] else ""
        return f"projects/{number_of(project)}{location}"

    def list_secrets(self, request: Request, parent: str, path: re.Match[str]) -> dict[str, Any]:
        everything = self.parents.get(parent, {}).values()
        found = [secret for secret in everything if matches(request, secret_facts(secret))]
        return self.page(request, "secrets", [secret_json(secret) for secret in found])

    def create_secret(self, request: Request, parent: str, path: re.Match[str]) -> dict[str, Any]:
        identifier = request.query.get("secretId", "")
        if not SECRET_ID.fullmatch(identifier):
            raise Refusal("INVALID_ARGUMENT", f"Secret ID [{identifier}] must match [a-zA-Z0-9_-]{{1,255}}.")
        fields = secret_fields(body(request))
        name = f"{parent}/secrets/{identifier}"
        secret = Secret(name, replication(fields, bool(path["location"])), self.etag(), now())
        update(secret, fields, MUTABLE & fields.keys(), path["location"])
        if identifier in self.parents.setdefault(parent, {}):
            raise Refusal("ALREADY_EXISTS", f"Secret [{name}] already exists.")
        self.parents[parent][identifier] = secret
        return secret_json(secret)

    def get_secret(self, request: Request, parent: str, path: re.Match[str]) -> dict[str, Any]:
        return secret_json(self.secret(parent, path))

    def patch_secret(self, request: Request, parent: str, path: re.Match[str]) -> dict[str, Any]:
        secret = self.secret(parent, path)
        fields = secret_fields(body(request))
        mask = {camel(name) for name in names(request.query.get("updateMask", ""))}
        if not mask:
            raise Refusal("INVALID_ARGUMENT", "update_mask must name at least one field.")
        if mask & UNKNOWN_TO_THE_FAKE:
            raise Refusal("UNIMPLEMENTED", f"the fake does not know {', '.join(sorted(mask & UNKNOWN_TO_THE_FAKE))}")
        if mask - MUTABLE:
            fixed = ", ".join(sorted(mask - MUTABLE))
            raise Refusal("INVALID_ARGUMENT", f"update_mask has fields that cannot be changed: {fixed}.")
        check_etag(fields.get("etag"), secret.etag)
        update(secret, fields, mask, path["location"])
        secret.etag = self.etag()
        return secret_json(secret)

    def delete_secret(self, request: Request, parent: str, path: re.Match[str]) -> dict[str, Any]:
        secret = self.secret(parent, path)
        check_etag(request.query.get("etag"), secret.etag)
        del self.parents[parent][path["secret"]]
        return {}

    def add_version(self, request: Request, parent: str, path: re.Match[str]) -> dict[str, Any]:
        secret = self.secret(parent, path)
        data, checked = payload(body(request))
        number = len(secret.versions) + 1
        version = Version(number, data, checked, encryption_key(secret), self.etag(), now())
        secret.versions.append(version)
        # The secret's own etag stays: it cannot guard against a second writer of versions.
        return self.version_json(request, secret, version)

    def list_versions(self, request: Request, parent: str, path: re.Match[str]) -> dict[str, Any]:
        secret = self.secret(parent, path)
        found = [version for version in reversed(secret.versions) if matches(request, version_facts(secret, version))]
        return self.page(request, "versions", [self.version_json(request, secret, version) for version in found])

    def get_version(self, request: Request, parent: str, path: re.Match[str]) -> dict[str, Any]:
        secret = self.secret(parent, path)
        return self.version_json(request, secret, find_version(secret, path["version"], aliases=True))

    def access_version(self, request: Request, parent: str, path: re.Match[str]) -> dict[str, Any]:
        secret = self.secret(parent, path)
        version = find_version(secret, path["version"], aliases=True)
        name = version_name(secret, version)
        if version.state != "ENABLED" or version.data is None:
            raise Refusal("FAILED_PRECONDITION", f"Secret Version [{name}] is in {version.state} state.")
        data = base64.b64encode(version.data).decode()
        return {"name": name, "payload": {"data": data, "dataCrc32c": str(crc32c(version.data))}}

    def change_state(self, request: Request, parent: str, path: re.Match[str]) -> dict[str, Any]:
        secret = self.secret(parent, path)
        version = find_version(secret, path["version"], aliases=False)
        check_etag(body(request, {"name", "etag"}).get("etag"), version.etag)
        if version.state == "DESTROYED":
            name = version_name(secret, version)
            raise Refusal("FAILED_PRECONDITION", f"Secret Version [{name}] is in DESTROYED state.")
        version.state = {"enable": "ENABLED", "disable": "DISABLED", "destroy": "DESTROYED"}[path["verb"]]
        version.etag = self.etag()
        if version.state == "DESTROYED":
            version.data, version.destroyed = None, now()
        return self.version_json(request, secret, version)

    def secret(self, parent: str, path: re.Match[str]) -> Secret:
        secret = self.parents.get(parent, {}).get(path["secret"])
        if secret is None:
            raise Refusal("NOT_FOUND", f"Secret [{parent}/secrets/{path['secret']}] not found.")
        return secret

    def version_json(self, request: Request, secret: Secret, version: Version) -> dict[str, Any]:
        as_number = "enum-encoding=int" in request.query.get("$alt", request.query.get("alt", ""))
        value = {
            "name": version_name(secret, version),
            "createTime": version.created,
            "state": STATES[version.state] if as_number else version.state,
            "etag": version.etag,
        } | version_encryption(secret, version)
        value |= {"destroyTime": version.destroyed} if version.destroyed else {}
        return value | ({"clientSpecifiedPayloadChecksum": True} if version.checked else {})

    def page(self, request: Request, key: str, items: list[dict[str, Any]]) -> dict[str, Any]:
        try:
            size = int(request.query.get("pageSize") or 0)
            start = int(unpadded(request.query.get("pageToken") or "MA"))
        except (ValueError, binascii.Error):
            size = start = -1
        if min(size, start) < 0:
            raise Refusal("INVALID_ARGUMENT", "page_size or page_token is invalid.")
        end = start + min(size or self.options.page_size, MAX_PAGE)
        answer: dict[str, Any] = {"totalSize": len(items)} | ({key: items[start:end]} if items[start:end] else {})
        more = base64.urlsafe_b64encode(str(end).encode()).decode()
        return answer | ({"nextPageToken": more} if end < len(items) else {})

    def etag(self) -> str:
        return f'"{next(self.etags):x}"'

    # Access tokens.

    def token_endpoint(self, request: Request) -> Reply | None:
        if request.method != "POST":
            return None
        if request.path == "/token":
            return Reply(200, self.grant(form(request)))
        if request.path == "/v1/token":
            return Reply(200, self.exchange(form(request)))
        if request.path == "/_fake/revoke":
            self.issued.clear()
            return Reply(204)
        impersonated = IMPERSONATE.fullmatch(request.path)
        return Reply(200, self.impersonate(request, impersonated["email"])) if impersonated else None

    def grant(self, form: dict[str, str]) -> dict[str, Any]:
        """The JWT bearer grant (RFC 7523) of a service account's key."""
        if form.get("grant_type") != JWT_BEARER:
            raise OAuthRefusal("unsupported_grant_type", f"Invalid grant_type: {form.get('grant_type', '')}")
        header, claims = jwt(form.get("assertion", "")) or ({}, {})
        if header.get("alg") != "RS256" or not all(isinstance(claims.get(name), str) for name in ("iss", "aud")):
            raise OAuthRefusal("invalid_grant", "Invalid JWT: needs RS256, iss and aud")
        if not in_time(claims) or claims["exp"] - claims.get("iat", 0) > 3660:
            raise OAuthRefusal("invalid_grant", "Invalid JWT: iat and exp must be in a reasonable timeframe (one hour)")
        if not claims["aud"].endswith("/token"):
            raise OAuthRefusal("invalid_grant", "Invalid JWT: aud must be the token endpoint")
        if not claims.get("scope"):
            raise OAuthRefusal("invalid_scope", "Empty or missing scope not allowed.")
        if self.options.service_account and claims["iss"] not in self.options.service_account:
            raise OAuthRefusal("invalid_grant", "Invalid grant: account not found")
        return self.issue()

    def exchange(self, form: dict[str, str]) -> dict[str, Any]:
        """The token exchange (RFC 8693) of workload identity federation."""
        if form.get("grant_type") != TOKEN_EXCHANGE:
            raise OAuthRefusal("unsupported_grant_type", f"Invalid grant_type: {form.get('grant_type', '')}")
        if form.get("requested_token_type") != ACCESS_TOKEN or form.get("subject_token_type") not in SUBJECT_TOKENS:
            raise OAuthRefusal("invalid_request", "Invalid requested_token_type or subject_token_type.")
        audience = form.get("audience", "")
        expected = self.options.workload_audience
        if not POOL.fullmatch(audience) or (expected and audience != expected):
            raise OAuthRefusal("invalid_target", "The target service indicated by the audience parameter is invalid.")
        if not form.get("scope"):
            raise OAuthRefusal("invalid_scope", "Empty or missing scope not allowed.")
        self.check_subject(form.get("subject_token", ""), audience)
        return self.issue() | {"issued_token_type": ACCESS_TOKEN}

    def check_subject(self, token: str, audience: str) -> None:
        _, claims = jwt(token) or ({}, {})
        if not claims.get("iss") or not claims.get("sub"):
            raise OAuthRefusal("invalid_request", "Unable to parse the ID Token.")
        if not in_time(claims):
            raise OAuthRefusal("invalid_grant", "ID Token issued at or expires at is out of range.")
        # A provider without allowed audiences takes its own full name, with or without the scheme.
        wanted = {self.options.subject_audience} if self.options.subject_audience else {audience, f"https:{audience}"}
        if not wanted & set(audiences(claims)):
            raise OAuthRefusal("invalid_grant", "The audience in ID Token does not match the expected audience.")
        if self.options.subject and claims["sub"] != self.options.subject:
            raise OAuthRefusal("unauthorized_client", "The given credential is rejected by the attribute condition.")

    def impersonate(self, request: Request, email: str) -> dict[str, Any]:
        """A federated identity's way to a service account's rights."""
        self.authenticate(request)
        if self.options.service_account and email not in self.options.service_account:
            denied = "Permission 'iam.serviceAccounts.getAccessToken' denied on resource (or it may not exist)."
            raise Refusal("PERMISSION_DENIED", denied, "IAM_PERMISSION_DENIED")
        token = self.issue()
        return {"accessToken": token["access_token"], "expireTime": now(token["expires_in"])}

    def issue(self) -> dict[str, Any]:
        token = self.options.token or f"ya29.{secrets.token_urlsafe(48)}"
        if not self.options.token:
            self.issued[token] = time.time() + self.options.token_lifetime
        return {"access_token": token, "expires_in": self.options.token_lifetime, "token_type": "Bearer"}


OPERATIONS: dict[tuple[str, str, str | None], tuple[str, Callable[..., dict[str, Any]]]] = {
    ("GET", "secrets", None): ("secretmanager.secrets.list", Fake.list_secrets),
    ("POST", "secrets", None): ("secretmanager.secrets.create", Fake.create_secret),
    ("GET", "secret", None): ("secretmanager.secrets.get", Fake.get_secret),
    ("PATCH", "secret", None): ("secretmanager.secrets.update", Fake.patch_secret),
    ("DELETE", "secret", None): ("secretmanager.secrets.delete", Fake.delete_secret),
    ("POST", "secret", "addVersion"): ("secretmanager.versions.add", Fake.add_version),
    ("GET", "versions", None): ("secretmanager.versions.list", Fake.list_versions),
    ("GET", "version", None): ("secretmanager.versions.get", Fake.get_version),
    ("GET", "version", "access"): ("secretmanager.versions.access", Fake.access_version),
    ("POST", "version", "enable"): ("secretmanager.versions.enable", Fake.change_state),
    ("POST", "version", "disable"): ("secretmanager.versions.disable", Fake.change_state),
    ("POST", "version", "destroy"): ("secretmanager.versions.destroy", Fake.change_state),
}


def level(path: re.Match[str]) -> str:
    if path["version"]:
        return "version"
    if path["versions"]:
        return "versions"
    return "secret" if path["secret"] else "secrets"


def number_of(project: str) -> str:
    """The project's number: answers name resources by it, whichever way they were asked for."""
    digest = int(hashlib.sha256(project.encode()).hexdigest(), 16)
    return project if project.isdigit() else str(10**11 + digest % 10**11)


def now(later: float = 0) -> str:
    time = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=later)
    return time.isoformat(timespec="microseconds").replace("+00:00", "Z")


def camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


def form(request: Request) -> dict[str, str]:
    try:
        return request.form()
    except ValueError:
        raise OAuthRefusal("invalid_request", "The body is neither a form nor JSON.") from None


def body(request: Request, known: Iterable[str] | None = None) -> dict[str, Any]:
    try:
        value = request.json()
    except ValueError:
        raise Refusal("INVALID_ARGUMENT", "Invalid JSON payload received.") from None
    refuse_unknown(value, known)
    return value


def refuse_unknown(value: dict[str, Any], known: Iterable[str] | None) -> None:
    unknown = value.keys() - set(known) if known is not None else ()
    for name in unknown:
        raise Refusal("INVALID_ARGUMENT", f'Invalid JSON payload received. Unknown name "{name}": Cannot find field.')


def message(value: Any) -> dict[str, Any]:
    """A field that is an object itself; absent is empty."""
    if not isinstance(value or {}, dict):
        raise Refusal("INVALID_ARGUMENT", "Invalid JSON payload received. Expected an object.")
    return value or {}


def secret_fields(fields: dict[str, Any]) -> dict[str, Any]:
    fields = {camel(name): value for name, value in fields.items()}
    refuse_unknown(fields, SECRET_FIELDS)
    given = sorted(name for name in fields.keys() & UNKNOWN_TO_THE_FAKE if fields[name])
    if given:
        raise Refusal("UNIMPLEMENTED", f"the fake does not know {', '.join(given)}")
    return fields


def update(secret: Secret, fields: dict[str, Any], mask: set[str], location: str | None) -> None:
    """Sets what the mask names; a field that is named and absent becomes empty. All or nothing."""
    changes: dict[str, Any] = {}
    if "labels" in mask:
        changes["labels"] = labels(fields.get("labels") or {})
    if "annotations" in mask:
        changes["annotations"] = annotations(fields.get("annotations") or {})
    if "versionAliases" in mask:
        changes["aliases"] = aliases(secret, message(fields.get("versionAliases")))
    if "customerManagedEncryption" in mask:
        changes["encryption"] = regional_encryption(fields.get("customerManagedEncryption"), location)
    for name, value in changes.items():
        setattr(secret, name, value)


def strings(field: str, value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise Refusal("INVALID_ARGUMENT", f"Invalid value at 'secret.{field}': not a map of strings.")
    return dict(value)


def labels(value: Any) -> dict[str, str]:
    value = strings("labels", value)
    good = len(value) <= 64 and all(
        key and category(key[0], "Ll", "Lo") and label_text(key) and label_text(text) for key, text in value.items()
    )
    if not good:
        raise Refusal(
            "INVALID_ARGUMENT",
            "labels: at most 64; keys of 1 to 63 and values of up to 63 characters: lower-case letters, digits, '_' "
            "and '-' only; keys start with a letter.",
        )
    return value


def label_text(text: str) -> bool:
    fits = len(text) <= 63 and len(text.encode()) <= 128
    return fits and all(char in "_-" or category(char, "Ll", "Lo", "Nd", "Nl", "No") for char in text)


def category(char: str, *categories: str) -> bool:
    return unicodedata.category(char) in categories


def annotations(value: Any) -> dict[str, str]:
    value = strings("annotations", value)
    for key in value:
        if not ANNOTATION_KEY.fullmatch(key):
            rule = "must have 1 to 63 letters, digits, '-', '_' and '.', and begin and end with a letter or digit."
            raise Refusal("INVALID_ARGUMENT", f"annotation key [{key}] {rule}")
    if sum(len(key.encode()) + len(text.encode()) for key, text in value.items()) >= MAX_ANNOTATIONS:
        raise Refusal("INVALID_ARGUMENT", "annotations: the total size of keys and values must be less than 16 KiB.")
    return value


def aliases(secret: Secret, value: dict[str, Any]) -> dict[str, int]:
    try:
        numbers = {name: int(number) for name, number in value.items()}
    except (TypeError, ValueError):
        raise Refusal("INVALID_ARGUMENT", "version_aliases: values must be version numbers.") from None
    good = all(ALIAS.fullmatch(name) and name not in ("latest", "NEW") for name in numbers)
    if not good or len(numbers) > 50 or not all(1 <= number <= len(secret.versions) for number in numbers.values()):
        raise Refusal("INVALID_ARGUMENT", "version_aliases: bad alias, too many, or no such version.")
    return numbers


def replication(fields: dict[str, Any], regional: bool) -> dict[str, Any] | None:
    value = fields.get("replication")
    if regional:
        if value:
            raise Refusal("INVALID_ARGUMENT", "replication must not be set on a regional secret.")
        return None
    if not isinstance(value, dict) or len(value) != 1 or not value.keys() <= {"automatic", "userManaged"}:
        raise Refusal("INVALID_ARGUMENT", "replication must be set: automatic or userManaged.")
    if "automatic" in value:
        check_key(message(value["automatic"]).get("customerManagedEncryption"), "global")
        return value
    replicas = [message(replica) for replica in message(value["userManaged"]).get("replicas") or []]
    places = [replica.get("location") for replica in replicas]
    if not places or not all(places) or len(set(places)) != len(places):
        raise Refusal("INVALID_ARGUMENT", "replication.userManaged needs replicas, each in another location.")
    keys = [replica.get("customerManagedEncryption") for replica in replicas]
    if any(keys) and not all(keys):
        raise Refusal("INVALID_ARGUMENT", "customerManagedEncryption must be set on all replicas or on none.")
    for place, key in zip(places, keys):
        check_key(key, place)
    return value


def regional_encryption(value: Any, location: str | None) -> dict[str, str] | None:
    if value and not location:
        raise Refusal("INVALID_ARGUMENT", "customer_managed_encryption is for regional secrets; set it in replication.")
    check_key(value, location or "")
    return value or None


def check_key(value: Any, location: str) -> None:
    if value is None:
        return
    key = KMS_KEY.fullmatch(str(message(value).get("kmsKeyName", "")))
    if not key or key["location"] != location:
        form = f"projects/*/locations/{location}/keyRings/*/cryptoKeys/*"
        raise Refusal("INVALID_ARGUMENT", f"kmsKeyName must be {form}.")


def encryption_key(secret: Secret) -> str | None:
    """The key of a new version; with several replicas the fake remembers that there are keys."""
    rule = secret.replication or {}
    single = secret.encryption or (rule.get("automatic") or {}).get("customerManagedEncryption")
    return single["kmsKeyName"] if single else None


def version_encryption(secret: Secret, version: Version) -> dict[str, Any]:
    by_key = lambda key: {"customerManagedEncryption": {"kmsKeyVersionName": f"{key}/cryptoKeyVersions/1"}}
    if secret.replication is None:
        return by_key(version.key) if version.key else {}
    if "automatic" in secret.replication:
        return {"replicationStatus": {"automatic": by_key(version.key) if version.key else {}}}
    replicas = []
    for replica in secret.replication["userManaged"]["replicas"]:
        key = (replica.get("customerManagedEncryption") or {}).get("kmsKeyName")
        replicas.append({"location": replica["location"]} | (by_key(key) if key else {}))
    return {"replicationStatus": {"userManaged": {"replicas": replicas}}}


def payload(fields: dict[str, Any]) -> tuple[bytes, bool]:
    refuse_unknown(fields, {"parent", "payload"})
    value = message(fields.get("payload"))
    refuse_unknown(value, {"data", "dataCrc32c"})
    try:
        data = unpadded(value.get("data") or "")
        given = int(value["dataCrc32c"]) if "dataCrc32c" in value else None
    except (ValueError, binascii.Error, AttributeError, TypeError):
        wrong = "Invalid value at 'payload': data must be base64, dataCrc32c a number."
        raise Refusal("INVALID_ARGUMENT", wrong) from None
    if not data:
        raise Refusal("INVALID_ARGUMENT", "Secret Payload cannot be empty.")
    if len(data) > MAX_PAYLOAD:
        raise Refusal("INVALID_ARGUMENT", f"Secret Payload is larger than the limit of {MAX_PAYLOAD} bytes.")
    if given is not None and given != crc32c(data):
        raise Refusal("INVALID_ARGUMENT", "The payload's checksum does not match data_crc32c.")
    return data, given is not None


def find_version(secret: Secret, name: str, aliases: bool) -> Version:
    """A version by number, or where that is allowed by alias. `latest` is the newest one, whatever its state."""
    number = int(name) if name.isdigit() else None
    if number is None and not aliases:
        raise Refusal("INVALID_ARGUMENT", f"Secret Version [{name}] must be named by its number here.")
    if name == "latest":
        if not secret.versions:
            raise Refusal("NOT_FOUND", f"Secret [{secret.name}] not found or has no versions.")
        return secret.versions[-1]
    number = number or secret.aliases.get(name, 0)
    if not 1 <= number <= len(secret.versions):
        raise Refusal("NOT_FOUND", f"Secret Version [{secret.name}/versions/{name}] not found.")
    return secret.versions[number - 1]


def check_etag(given: str | None, current: str) -> None:
    if given and given != current:
        raise Refusal("FAILED_PRECONDITION", "The etag of the request does not match that of the resource.")


def version_name(secret: Secret, version: Version) -> str:
    return f"{secret.name}/versions/{version.number}"


def secret_json(secret: Secret) -> dict[str, Any]:
    value = {
        "name": secret.name,
        "createTime": secret.created,
        "etag": secret.etag,
        "replication": secret.replication,
        "labels": secret.labels,
        "annotations": secret.annotations,
        "versionAliases": {name: str(number) for name, number in secret.aliases.items()},
        "customerManagedEncryption": secret.encryption,
    }
    # Empty fields are left out, as in every JSON of a protocol buffer.
    return {name: field for name, field in value.items() if field}


def secret_facts(secret: Secret) -> dict[str, str]:
    return {"name": secret.name} | {f"labels.{key}": text for key, text in secret.labels.items()}


def version_facts(secret: Secret, version: Version) -> dict[str, str]:
    return {"name": version_name(secret, version), "state": version.state}


def matches(request: Request, facts: dict[str, str]) -> bool:
    """A part of Google's filter language: `FIELD:TEXT` (contains) and `FIELD=TEXT`, joined by ` AND `."""
    for term in filter(None, request.query.get("filter", "").split(" AND ")):
        known = re.fullmatch(r"(name|state|labels\.[^:=\s]+)([:=])([^\s\"()]+)", term.strip())
        if not known:
            raise Refusal("UNIMPLEMENTED", "the fake does not know this filter")
        field, operator, text = known.groups()
        fact = facts.get(field)
        if fact is None or not (text in fact if operator == ":" else text == fact):
            return False
    return True


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli), the checksum that Google uses."""
    table = crc32c_table()
    crc = 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


@functools.cache
def crc32c_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


def main() -> None:
    parser = arguments("A fake of Google Secret Manager.")
    parser.add_argument("--project", action="append", default=[], help="exists; repeatable; default: every one")
    parser.add_argument("--permissions", type=names, help="what callers may do, by name; default: all")
    # With none of the next three, everybody may do everything.
    parser.add_argument("--token", help="the one access token, accepted and handed out")
    parser.add_argument("--issued-tokens", action="store_true", help="accept the access tokens that were handed out")
    parser.add_argument("--service-account", action="append", default=[], help="exists, signs tokens; repeatable")
    parser.add_argument("--token-lifetime", type=int, default=3599, help="of handed-out access tokens, in seconds")
    parser.add_argument("--workload-audience", help="the workload identity provider that exists; default: every one")
    parser.add_argument("--subject-audience", help="the aud of subject tokens; default: the provider's name")
    parser.add_argument("--subject", help="the sub that subject tokens must have")
    parser.add_argument("--page-size", type=int, default=10, help="of lists whose client leaves it open")
    options = parser.parse_args()
    serve(options.port, Fake(options).answer)


if __name__ == "__main__":
    main()
