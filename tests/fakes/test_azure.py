"""Microsoft's own Python clients against the fake of Key Vault and Entra ID: what they must find there is what the real
ones give."""

import base64
import contextlib
import datetime
import json
import logging
import ssl
import tempfile
import time
import unittest
import urllib.error
import urllib.request
from collections.abc import Iterator

from azure.core.exceptions import (
    ClientAuthenticationError,
    HttpResponseError,
    ResourceExistsError,
    ResourceNotFoundError,
)
from azure.identity import ClientAssertionCredential, ClientSecretCredential
from azure.keyvault.secrets import SecretClient

from started import started
from tls import Tls

TENANT = "00000000-0000-0000-0000-000000000001"
SECRET = "the-client-secret"
UTC = datetime.timezone.utc

# Refusals are expected here: the clients need not report them.
logging.getLogger("azure").setLevel(logging.CRITICAL)


class Vault:
    """One running fake."""

    def __init__(self, port: int, tls: Tls):
        self.url, self.tls = f"https://localhost:{port}", tls
        self.common = {"connection_verify": tls.cert, "retry_total": 0}
        self.entra = self.common | {"authority": self.url, "disable_instance_discovery": True}

    def client(self, credential: object | None = None) -> SecretClient:
        credential = credential or self.secret_credential(SECRET)
        return SecretClient(self.url, credential, verify_challenge_resource=False, **self.common)

    def secret_credential(self, secret: str) -> ClientSecretCredential:
        return ClientSecretCredential(TENANT, "an-application", secret, **self.entra)

    def assertion_credential(self, claims: dict[str, object]) -> ClientAssertionCredential:
        return ClientAssertionCredential(TENANT, "an-application", lambda: assertion(claims), **self.entra)

    def call(self, method: str, path: str, headers: dict[str, str] | None = None) -> None:
        request = urllib.request.Request(self.url + path, method=method, headers=headers or {})
        context = ssl.create_default_context(cafile=self.tls.cert)
        urllib.request.urlopen(request, timeout=10, context=context).close()


@contextlib.contextmanager
def vault(*options: str) -> Iterator[Vault]:
    with tempfile.TemporaryDirectory() as directory:
        tls = Tls(directory)
        with started("azure_key_vault.py", "--cert", tls.cert, "--key", tls.key, *options) as port:
            yield Vault(port, tls)


def assertion(claims: dict[str, object]) -> str:
    """A JWT as Kubernetes would issue it, with these claims."""
    now = int(time.time())
    parts = ({"alg": "RS256", "kid": "1"}, {"iat": now, "exp": now + 600} | claims)
    encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts]
    return ".".join([*encoded, "c2lnbmF0dXJl"])


def inner(error: HttpResponseError) -> str | None:
    return error.response.json()["error"].get("innererror", {}).get("code")


class Secrets(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.vault = cls.enterClassContext(vault("--client-secret", SECRET))
        cls.api = cls.vault.client()

    def test_a_value_is_read_back_with_its_attributes(self) -> None:
        expires = datetime.datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
        tags = {"virtualaccounts-jti": "x/Y.z:1"}
        written = self.api.set_secret("value", "v1", tags=tags, expires_on=expires, content_type="application/jwt")
        read = self.api.get_secret("value")
        self.assertEqual(("v1", tags, expires), (read.value, read.properties.tags, read.properties.expires_on))
        self.assertEqual(("application/jwt", True), (read.properties.content_type, read.properties.enabled))
        self.assertEqual(written.properties.version, read.properties.version)
        self.assertRegex(read.properties.version, "^[0-9a-f]{32}$")
        recovery = (read.properties.recovery_level, read.properties.recoverable_days)
        self.assertEqual(("Recoverable+Purgeable", 90), recovery)
        self.assertEqual(f"{self.vault.url}/secrets/value/{read.properties.version}", read.id)

    def test_names_are_case_insensitive(self) -> None:
        self.api.set_secret("Cased", "v1")
        self.api.set_secret("CASED", "v2")
        self.assertEqual("v2", self.api.get_secret("cased").value)
        self.assertEqual(2, len(list(self.api.list_properties_of_secret_versions("cased"))))

    def test_an_expired_secret_is_still_read(self) -> None:
        self.api.set_secret("expired", "v1", expires_on=datetime.datetime(2020, 1, 1, tzinfo=UTC))
        self.assertEqual("v1", self.api.get_secret("expired").value)

    def test_each_write_is_a_version(self) -> None:
        first = self.api.set_secret("versions", "same")
        second = self.api.set_secret("versions", "same", tags={"n": "2"})
        self.assertNotEqual(first.properties.version, second.properties.version)
        listed = {item.version: item.tags for item in self.api.list_properties_of_secret_versions("versions")}
        self.assertEqual({first.properties.version: None, second.properties.version: {"n": "2"}}, listed)
        self.assertEqual({}, self.api.get_secret("versions", first.properties.version).properties.tags or {})

    def test_lists_have_pages(self) -> None:
        with vault() as other:
            api = other.client()
            for number in range(30):
                api.set_secret(f"listed-{number:02}", "x")
            pages = [list(page) for page in api.list_properties_of_secrets().by_page()]
            self.assertEqual([25, 5], [len(page) for page in pages])
            names = [item.name for page in pages for item in page]
            self.assertEqual([f"listed-{number:02}" for number in range(30)], names)
            pages = list(api.list_properties_of_secrets(max_page_size=7).by_page())
            self.assertEqual(5, len(pages))
            with self.assertRaises(HttpResponseError):
                list(api.list_properties_of_secrets(max_page_size=26))

    def test_properties_change_without_a_new_version(self) -> None:
        version = self.api.set_secret("properties", "v1", tags={"a": "1"}, content_type="text/plain").properties.version
        expires = datetime.datetime(2031, 1, 1, tzinfo=UTC)
        self.api.update_secret_properties("properties", version, expires_on=expires)
        read = self.api.get_secret("properties").properties
        self.assertEqual(({"a": "1"}, "text/plain", expires), (read.tags, read.content_type, read.expires_on))
        self.api.update_secret_properties("properties", tags={"b": "2"})
        read = self.api.get_secret("properties").properties
        self.assertEqual(({"b": "2"}, expires, version), (read.tags, read.expires_on, read.version))

    def test_a_disabled_version_is_not_read(self) -> None:
        old = self.api.set_secret("disabled", "v1").properties.version
        new = self.api.set_secret("disabled", "v2").properties.version
        self.api.update_secret_properties("disabled", old, enabled=False)
        self.assertEqual("v2", self.api.get_secret("disabled").value)
        with self.assertRaises(HttpResponseError) as raised:
            self.api.get_secret("disabled", old)
        self.assertEqual((403, "SecretDisabled"), (raised.exception.status_code, inner(raised.exception)))
        states = {item.version: item.enabled for item in self.api.list_properties_of_secret_versions("disabled")}
        self.assertEqual({old: False, new: True}, states)
        self.api.update_secret_properties("disabled", new, enabled=False)
        self.assertRaises(HttpResponseError, self.api.get_secret, "disabled")
        self.api.update_secret_properties("disabled", new, enabled=True)
        self.assertEqual("v2", self.api.get_secret("disabled").value)

    def test_what_is_absent_is_not_found(self) -> None:
        self.api.set_secret("present", "v1")
        for call in (
            lambda: self.api.get_secret("absent"),
            lambda: self.api.get_secret("present", "0" * 32),
            lambda: self.api.update_secret_properties("absent", enabled=False),
            lambda: self.api.begin_delete_secret("absent"),
            lambda: self.api.get_deleted_secret("present"),
            lambda: self.api.begin_recover_deleted_secret("present"),
            lambda: list(self.api.list_properties_of_secret_versions("absent")),
        ):
            with self.assertRaises(ResourceNotFoundError) as raised:
                call()
            self.assertEqual("SecretNotFound", raised.exception.error.code)

    def test_a_deleted_secret_blocks_its_name_until_it_is_recovered(self) -> None:
        self.api.set_secret("soft", "v1", tags={"a": "1"})
        self.api.set_secret("soft", "v2", tags={"a": "2"})
        deleted = self.api.begin_delete_secret("soft", _polling_interval=0.1).result()
        self.assertEqual(f"{self.vault.url}/deletedsecrets/soft", deleted.recovery_id)
        self.assertEqual(datetime.timedelta(days=90), deleted.scheduled_purge_date - deleted.deleted_date)
        self.assertEqual({"a": "2"}, self.api.get_deleted_secret("soft").properties.tags)
        self.assertRaises(ResourceNotFoundError, self.api.get_secret, "soft")
        self.assertIn("soft", [item.name for item in self.api.list_deleted_secrets()])
        self.assertNotIn("soft", [item.name for item in self.api.list_properties_of_secrets()])
        with self.assertRaises(ResourceExistsError) as raised:
            self.api.set_secret("SOFT", "v3")
        self.assertEqual("ObjectIsDeletedButRecoverable", inner(raised.exception))
        self.api.begin_recover_deleted_secret("soft", _polling_interval=0.1).wait()
        self.assertEqual("v2", self.api.get_secret("soft").value)
        self.assertEqual(2, len(list(self.api.list_properties_of_secret_versions("soft"))))
        self.assertEqual("v3", self.api.set_secret("soft", "v3").value)

    def test_a_purged_name_is_free(self) -> None:
        self.api.set_secret("purged", "v1")
        self.api.begin_delete_secret("purged", _polling_interval=0.1).wait()
        self.api.purge_deleted_secret("purged")
        self.assertRaises(ResourceNotFoundError, self.api.get_deleted_secret, "purged")
        self.api.set_secret("purged", "v2")
        self.assertEqual(1, len(list(self.api.list_properties_of_secret_versions("purged"))))

    def test_what_breaks_a_rule_is_refused(self) -> None:
        for name, call in {
            "name": lambda: self.api.set_secret("a_b", "x"),
            "long name": lambda: self.api.set_secret("a" * 128, "x"),
            "value": lambda: self.api.set_secret("rules", "x" * (25 * 1024 + 1)),
            "tags": lambda: self.api.set_secret("rules", "x", tags={str(number): "" for number in range(16)}),
            "tag": lambda: self.api.set_secret("rules", "x", tags={"a": "x" * 257}),
            "version": lambda: self.api.get_secret("value", "1"),
        }.items():
            with self.subTest(name), self.assertRaises(HttpResponseError) as raised:
                call()
            self.assertEqual((400, "BadParameter"), (raised.exception.status_code, raised.exception.error.code))
        self.assertRaises(ResourceNotFoundError, self.api.get_secret, "rules")

    def test_an_older_api_version_is_served(self) -> None:
        api = SecretClient(
            self.vault.url,
            self.vault.secret_credential(SECRET),
            api_version="2025-07-01",
            verify_challenge_resource=False,
            **self.vault.common,
        )
        self.assertEqual("x", api.set_secret("older", "x").value)


class SlowDeletion(unittest.TestCase):
    def test_deletion_and_recovery_take_a_moment(self) -> None:
        with vault("--slow-delete", "2000") as slow:
            api = slow.client()
            api.set_secret("slow", "v1")
            poller = api.begin_delete_secret("slow", _polling_interval=0.05)
            self.assertRaises(ResourceNotFoundError, api.get_secret, "slow")
            self.assertRaises(ResourceNotFoundError, api.get_deleted_secret, "slow")
            with self.assertRaises(ResourceExistsError) as raised:
                api.set_secret("slow", "v2")
            self.assertEqual("ObjectIsBeingDeleted", inner(raised.exception))
            poller.wait()
            poller = api.begin_recover_deleted_secret("slow", _polling_interval=0.02)
            self.assertRaises(ResourceNotFoundError, api.get_secret, "slow")
            poller.wait()
            self.assertEqual("v1", api.get_secret("slow").value)
            with self.assertRaises(ResourceExistsError) as raised:
                api.set_secret("slow", "v2")
            self.assertEqual("ObjectIsBeingRecovered", inner(raised.exception))


class Access(unittest.TestCase):
    def test_the_challenge_names_authority_and_resource(self) -> None:
        with vault() as some:
            with self.assertRaises(urllib.error.HTTPError) as raised:
                some.call("GET", "/secrets/a?api-version=2025-07-01")
            with raised.exception as error:
                expected = f'Bearer authorization="{some.url}/{TENANT}", resource="https://vault.azure.net"'
                self.assertEqual((401, expected), (error.code, error.headers["WWW-Authenticate"]))
                self.assertEqual("Unauthorized", json.load(error)["error"]["code"])

    def test_an_invented_token_is_refused(self) -> None:
        with vault() as some, self.assertRaises(urllib.error.HTTPError) as raised:
            some.call("GET", "/secrets/a?api-version=2025-07-01", {"Authorization": "Bearer invented"})
        with raised.exception as error:
            self.assertEqual(401, error.code)

    def test_only_the_client_secret_named_at_start_is_good(self) -> None:
        with vault("--client-secret", SECRET) as some:
            with self.assertRaises(ClientAuthenticationError) as raised:
                some.client(some.secret_credential("wrong")).get_secret("a")
            self.assertIn("AADSTS7000215", str(raised.exception))

    def test_an_unknown_application_is_refused(self) -> None:
        with vault("--client-id", "another-application") as some:
            with self.assertRaises(ClientAuthenticationError) as raised:
                some.client().get_secret("a")
            self.assertIn("AADSTS700016", str(raised.exception))

    def test_a_federated_token_is_exchanged(self) -> None:
        with vault("--issuer", "https://cluster", "--subject", "system:serviceaccount:a:b") as some:
            good = {"iss": "https://cluster", "sub": "system:serviceaccount:a:b", "aud": ["api://AzureADTokenExchange"]}
            some.client(some.assertion_credential(good)).set_secret("a", "x")
            for wrong, code in (
                ({"aud": "https://else"}, "700212"),
                ({"iss": "https://else"}, "700211"),
                ({"sub": "system:serviceaccount:a:c"}, "700213"),
                ({"exp": 1}, "700024"),
            ):
                with self.subTest(wrong), self.assertRaises(ClientAuthenticationError) as raised:
                    some.client(some.assertion_credential(good | wrong)).get_secret("a")
                self.assertIn(f"AADSTS{code}", str(raised.exception))

    def test_a_revoked_token_is_refused_and_a_new_client_gets_another(self) -> None:
        with vault() as some:
            api = some.client()
            api.set_secret("a", "x")
            some.call("POST", "/_fake/revoke")
            with self.assertRaises(ClientAuthenticationError):
                api.get_secret("a")
            self.assertEqual("x", some.client().get_secret("a").value)

    def test_instance_discovery_works_too(self) -> None:
        with vault() as some:
            some.call("GET", "/common/discovery/instance?api-version=1.1")

    def test_a_missing_permission_is_named(self) -> None:
        with vault("--permissions", "set") as some:
            api = some.client()
            api.set_secret("a", "x")
            with self.assertRaises(HttpResponseError) as raised:
                api.get_secret("a")
            self.assertEqual((403, "ForbiddenByPolicy"), (raised.exception.status_code, inner(raised.exception)))

    def test_a_missing_data_action_is_named(self) -> None:
        actions = "Microsoft.KeyVault/vaults/secrets/setSecret/action"
        with vault("--data-actions", actions, "--limited", "an-application") as some:
            api = some.client()
            api.set_secret("mine", "v")
            with self.assertRaises(HttpResponseError) as raised:
                api.get_secret("mine")
            self.assertEqual((403, "ForbiddenByRbac"), (raised.exception.status_code, inner(raised.exception)))
        with vault("--data-actions", actions, "--limited", "another-application") as some:
            some.client().set_secret("mine", "v")
            self.assertEqual("v", some.client().get_secret("mine").value)


if __name__ == "__main__":
    unittest.main()
