"""The settings of groups through the API, by real requests; and what a pull is told afterwards."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from depproxy.access.administration import Administration
from depproxy.access.choices import CREDENTIAL, ENABLED, TTL_DAYS, TTL_ENABLED
from depproxy.access.errors import Unauthenticated
from depproxy.access.gate import Gate
from depproxy.access.interface import Login
from depproxy.access.logins import prove
from depproxy.access.sealing import Sealer
from depproxy.access.settings import RunTimeSettings
from depproxy.access.throttle import Throttle
from depproxy.config import AccessSettings
from depproxy.index.interface import Home
from depproxy.metrics import Metrics
from depproxy.oci.digest import Digest
from depproxy.oci.errors import OCIError
from depproxy.oci.reference import Name, Tag
from depproxy.upstream.interface import Credential
from depproxy.web.addresses import Addresses
from depproxy.web.api import ADDRESSES, KEYS, Api, _choices
from tests.access_cases import ALICE, BOB, BOT, DEPLOY, FULL, LAPTOP, NARROW, OLD, House
from tests.web_support import REACTOR, UPSTREAMS, Answer, Cache, WebTestCase, until

APP = Name("org/app")
SECRET = "hub-secret-of-acme"
NOTHING = {
    "enabled": True,
    "enabled_by": None,
    "identity": None,
    "identity_by": None,
    "secret_set": False,
    "secret_usable": False,
    "ttl_policy_enabled": False,
    "ttl_policy_enabled_by": None,
    "ttl_days": 90,
    "ttl_days_by": None,
}
NO_DAYS: tuple[object, ...] = (0, 36501, -1, 7.0, "7", True, [])
HUB = {"identity": "acme-bot", "secret": SECRET}


def basic(name: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + b64encode(f"{name}:{password}".encode()).decode()}


OWNER, GUEST, ADMIN = basic("alice", ALICE), basic("bob", BOB), basic("root", ALICE)


class ApiTestCase(WebTestCase):
    async def setUp(self) -> None:  # type: ignore[override]
        super().setUp()
        self.house = House(self.directory)
        self.index = self.house.index
        self.sealer = Sealer(self.directory / "keys")
        self.sealer.load()
        self.settings = await self.process()
        rules = self.house.rules()
        self.gate = Gate(*rules, self.house.tokens, self.settings.enabled, now=self.house.clock)
        self.settings.changed = self.gate.forget
        throttle = Throttle(self.index, self.house.clock, AccessSettings())
        self.administration = Administration(*rules, throttle, self.settings)
        self.cache = cache = Cache(self.directory / "data")
        self.addCleanup(lambda: Deferred.fromCoroutine(cache.settle()))
        cache.hub.put_manifest(APP, b"{}", Tag("1"))
        registry = cache.registry(gate=self.gate)
        registry.addresses = addresses = Addresses(self.house.settings.mirror, UPSTREAMS)
        api = Api(self.administration, cache.purges, addresses, Metrics())
        self.site = self.faces(registry, api=api.app.resource())
        self.port = self.listen(self.site)
        self.connection = await self.client(self.port)

    async def process(self) -> RunTimeSettings:
        """The settings as another process on the same index has them."""
        settings = RunTimeSettings(self.index, self.sealer, REACTOR)
        await settings.start()
        self.addCleanup(settings.stop)
        return settings

    async def ask(self, path: str, method: str, body: bytes, headers: dict[str, str]) -> Answer:
        if body:
            headers = {"Content_Type": "application/json", "Content-Length": str(len(body)), **headers}
        self.connection.ask(path, method, **headers)
        self.connection.send(body)
        answer = await self.connection.answer(method)
        assert SECRET.encode() not in answer.body
        return answer

    async def get(self, group: str, method: str = "GET", **headers: str) -> Answer:
        return await self.ask(f"/api/v4/groups/{group}/dependency_proxy/settings", method, b"", headers)

    async def change(self, group: str, body: object, **headers: str) -> Answer:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.ask(f"/api/v4/groups/{group}/dependency_proxy/settings", "PATCH", data, headers)

    def shown(self, answer: Answer) -> dict[str, Any]:
        assert answer.status == 200, answer
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["content-length"] == str(len(answer.body))
        return dict(json.loads(answer.body))

    def refused(self, answer: Answer, status: int, code: str) -> str:
        assert (answer.status, answer.error) == (status, code), answer
        (entry,) = json.loads(answer.body)["errors"]
        return str(entry["message"])

    def tearDown(self) -> None:
        for secret in (SECRET, ALICE, BOB, LAPTOP, BOT, DEPLOY):
            assert not self.has_logged(secret)


class Reading(ApiTestCase):
    async def test_nothing_is_set(self) -> None:
        assert self.shown(await self.get("acme", **OWNER)) == {"group": "acme", **NOTHING}

    async def test_every_kind_of_login(self) -> None:
        for headers in (
            OWNER,
            basic("alice", LAPTOP),
            {"PRIVATE-TOKEN": LAPTOP},
            {"private-token": f" {BOT} "},
            {"Authorization": f"Bearer {LAPTOP}"},
            {"Authorization": f"bearer {BOT}"},
            basic("acme-ci", DEPLOY),
            ADMIN,
        ):
            self.shown(await self.get("acme", **headers))

    async def test_a_guest(self) -> None:
        assert self.shown(await self.get("acme%2Ftools", **GUEST)) == {"group": "acme/tools", **NOTHING}

    async def test_how_a_group_may_be_written(self) -> None:
        for path in ("acme%2Ftools", "acme%2ftools", "acme/tools", "ACME%2FTools"):
            assert self.shown(await self.get(path, **OWNER))["group"] == "acme/tools"
            assert self.shown(await self.change(path, {}, **OWNER))["group"] == "acme/tools"

    async def test_a_group_whose_path_is_a_number(self) -> None:
        self.house.text += '[groups.42]\nmembers = { bob = "owner" }\n'
        self.administration.replace(*self.house.rules())
        assert self.shown(await self.change("42", {"enabled": False}, **GUEST))["enabled_by"] == "42"
        self.refused(await self.get("43", **GUEST), 403, "DENIED")

    async def test_head(self) -> None:
        answer = await self.get("acme", "HEAD", **OWNER)
        assert (answer.status, answer.body) == (200, b"")
        assert int(answer.headers["content-length"]) > 2

    async def test_inherited(self) -> None:
        await self.settings.change("acme", {ENABLED: False, CREDENTIAL: Credential("acme-bot", SECRET)})
        assert self.shown(await self.get("acme%2Ftools", **GUEST)) == {
            **NOTHING,
            "group": "acme/tools",
            "enabled": False,
            "enabled_by": "acme",
            "identity": "acme-bot",
            "identity_by": "acme",
            "secret_set": True,
            "secret_usable": True,
        }

    async def test_the_configuration_has_the_last_word(self) -> None:
        await self.settings.change("closed", {ENABLED: True})
        found = self.shown(await self.get("closed", **OWNER))
        assert (found["enabled"], found["enabled_by"]) == (False, "configuration")

    async def test_what_another_process_has_just_changed(self) -> None:
        other = await self.process()
        await other.change("acme", {ENABLED: False})
        assert self.settings.enabled("acme")
        assert self.shown(await self.get("acme", **OWNER))["enabled"] is False

    async def test_a_secret_that_is_lost(self) -> None:
        await self.settings.change("acme", {CREDENTIAL: Credential("acme-bot", SECRET)})
        self.sealer.path.unlink()
        self.sealer.load()
        self.administration._settings = await self.process()
        found = self.shown(await self.get("acme", **OWNER))
        assert (found["identity"], found["secret_set"], found["secret_usable"]) == ("acme-bot", True, False)
        assert self.has_logged("set it again")

    async def test_while_the_index_is_away(self) -> None:
        await self.settings.change("acme", {ENABLED: False})
        self.index.available = False
        assert self.shown(await self.get("acme", **OWNER))["enabled"] is False
        assert self.has_logged("the settings of group acme may have changed")


class Refusals(ApiTestCase):
    async def test_nobody(self) -> None:
        for group in ("acme", "nowhere"):
            answer = await self.get(group)
            assert "PRIVATE-TOKEN" in self.refused(answer, 401, "UNAUTHORIZED")
            assert answer.headers["www-authenticate"] == 'Basic realm="dependency_proxy", charset="UTF-8"'
            self.refused(await self.change(group, {"enabled": False}), 401, "UNAUTHORIZED")
        assert self.index.settings == {}

    async def test_wrong_logins(self) -> None:
        for headers in (
            basic("alice", "wrong"),
            basic("nobody", ALICE),
            {"PRIVATE-TOKEN": "dpp_wrong"},
            {"PRIVATE-TOKEN": ALICE},
            {"Authorization": "Bearer dpg_wrong"},
            {"Authorization": "Bearer "},
            basic("alice", DEPLOY),
        ):
            message = self.refused(await self.get("acme", **headers), 401, "UNAUTHORIZED")
            assert "wrong" in message or "needed" in message

    async def test_tokens_that_are_not_enough(self) -> None:
        assert "expired" in self.refused(await self.get("acme", PRIVATE_TOKEN=OLD), 401, "UNAUTHORIZED")
        assert "scopes" in self.refused(await self.get("acme", PRIVATE_TOKEN=NARROW), 401, "UNAUTHORIZED")

    async def test_headers_that_are_none(self) -> None:
        for value in ("Basic !", "Digest x", "Basic " + b64encode(b"no colon").decode()):
            self.refused(await self.get("acme", Authorization=value), 400, "UNSUPPORTED")
        self.refused(await self.get("acme", PRIVATE_TOKEN="x" * 17000), 400, "UNSUPPORTED")

    async def test_guessing_is_slowed(self) -> None:
        for _ in range(1000):
            answer = await self.get("acme", **basic("alice", "wrong"))
            if answer.status == 429:
                break
        assert self.refused(answer, 429, "TOOMANYREQUESTS")
        assert int(answer.headers["retry-after"]) > 0

    async def test_tokens_without_a_user_name_are_not_one_account(self) -> None:
        """Whoever guesses from many addresses locks out nobody else."""
        accounts, throttle = self.house.rules()[1], Throttle(self.index, self.house.clock, AccessSettings())
        for number in range(100):
            login = Login("", "glpat-guessed", f"192.0.2.{number}")
            with pytest.raises(Unauthenticated):
                await prove(login, accounts, throttle, "")

    async def test_no_role_and_no_group_look_alike(self) -> None:
        for method in ("get", "patch"):
            told = []
            # Groups have no numbers here, so a number is a path like another.
            for group in ("other", "nowhere", "42", "acme%2F42"):
                answer = await (self.get(group, **GUEST) if method == "get" else self.change(group, {}, **GUEST))
                told.append(self.refused(answer, 403, "DENIED").replace(group.replace("%2F", "/"), "GROUP"))
            assert told == ["group GROUP: bob has no role here; only members of the group may pull"] * 4
        # Not even for an admin there is a group that is not there.
        for group in ("nowhere", "42"):
            message = self.refused(await self.get(group, **ADMIN), 403, "DENIED")
            assert message == f"group {group}: root has no role here; only members of the group may pull"

    async def test_only_owners_change(self) -> None:
        for group, headers in (("acme%2Ftools", GUEST), ("acme", {"PRIVATE-TOKEN": BOT}), ("closed", OWNER)):
            message = self.refused(await self.change(group, {"enabled": False}, **headers), 403, "DENIED")
            assert "is guest; an owner may change settings" in message
        assert self.index.settings == {}

    async def test_addresses(self) -> None:
        assert "group path" in self.refused(await self.get("-acme", **OWNER), 400, "NAME_INVALID")
        self.refused(await self.get("acme%252Ftools", **OWNER), 400, "NAME_INVALID")
        self.refused(await self.get("acme%2F..", **OWNER), 400, "NAME_INVALID")
        for path in ("/api/v4/", "/api/v4/groups", "/api/v4/groups/acme/dependency_proxy/setting"):
            answer = await self.ask(path, "GET", b"", OWNER)
            message = self.refused(answer, 404, "NAME_UNKNOWN")
            assert message == f"no such address; {ADDRESSES}"

    async def test_methods(self) -> None:
        for method in ("POST", "PUT", "DELETE"):
            answer = await self.get("acme", method, **OWNER)
            message = self.refused(answer, 405, "UNSUPPORTED")
            assert message == f"{method} is not supported here: {ADDRESSES}"
            assert answer.headers["allow"] == "GET, HEAD, PATCH"


class Changing(ApiTestCase):
    async def test_turning_off_and_on(self) -> None:
        found = self.shown(await self.change("acme", {"enabled": False}, **OWNER))
        assert (found["enabled"], found["enabled_by"]) == (False, "acme")
        found = self.shown(await self.change("acme%2Ftools", {"enabled": True}, **OWNER))
        assert (found["enabled"], found["enabled_by"]) == (True, "acme/tools")
        found = self.shown(await self.change("acme%2Ftools", {"enabled": None}, **OWNER))
        assert (found["enabled"], found["enabled_by"]) == (False, "acme")

    async def test_a_credential(self) -> None:
        found = self.shown(await self.change("acme", HUB, **OWNER))
        assert (found["identity"], found["identity_by"], found["secret_set"]) == ("acme-bot", "acme", True)
        assert self.settings.find("docker.io", "acme/tools") == Credential("acme-bot", SECRET)
        assert SECRET not in repr(self.index.settings)
        found = self.shown(await self.change("acme", {"enabled": True}, **OWNER))
        assert found["secret_set"]
        assert self.shown(await self.change("acme", dict.fromkeys(HUB), **OWNER)) == {
            "group": "acme",
            **NOTHING,
            "enabled_by": "acme",
        }

    async def test_a_ttl_policy(self) -> None:
        def policy(found: dict[str, Any]) -> list[object]:
            return [found[f"ttl_{key}"] for key in ("policy_enabled", "policy_enabled_by", "days", "days_by")]

        assert policy(self.shown(await self.change("acme", {"ttl_policy_enabled": True}, **OWNER))) == [
            *(True, "acme"),
            *(90, None),
        ]
        assert policy(self.shown(await self.change("acme%2Ftools", {"ttl_days": 36500}, **OWNER))) == [
            *(True, "acme"),
            *(36500, "acme/tools"),
        ]
        self.settings.configured_ttls = {"acme": 7 * 86400.0}
        nothing = {"ttl_policy_enabled": None, "ttl_days": None}
        assert policy(self.shown(await self.change("acme", nothing, **OWNER))) == [
            *(True, "configuration"),
            *(7, "configuration"),
        ]
        assert self.settings.ttl("acme/tools") == 36500 * 86400.0
        assert self.has_logged("acme/tools: ttl_days = 36500")
        assert self.has_logged("ttl_policy_enabled = true")
        assert self.has_logged("ttl_policy_enabled taken back, ttl_days taken back")

    async def test_nothing_to_change(self) -> None:
        assert self.shown(await self.change("acme", {}, **OWNER)) == {"group": "acme", **NOTHING}

    async def test_by_whom(self) -> None:
        for headers in (ADMIN, {"PRIVATE-TOKEN": FULL}, basic("whoever", FULL)):
            self.shown(await self.change("acme", {"enabled": True}, **headers))

    async def test_a_token_that_is_good_for_pulling_only(self) -> None:
        headers = {"PRIVATE-TOKEN": LAPTOP}
        assert "needs the scope api" in self.refused(
            await self.change("acme", {"enabled": False}, **headers), 403, "DENIED"
        )
        assert self.shown(await self.get("acme", **headers))["enabled"] is True

    async def test_what_the_configuration_has_turned_off(self) -> None:
        self.house.text = self.house.text.replace('alice = "guest"', 'alice = "owner"')
        self.administration.replace(*self.house.rules())
        message = self.refused(await self.change("closed", {"enabled": True}, **OWNER), 403, "DENIED")
        assert "turned off in the configuration" in message

    async def test_it_is_logged(self) -> None:
        await self.change("acme", {**HUB, "enabled": None}, **OWNER)
        assert self.has_logged("alice (local) has changed settings of group acme: enabled taken back, credential")

    async def test_who_hangs_up_has_changed_it_all_the_same_and_it_is_logged(self) -> None:
        """Nobody is told, but the log has to say who did it."""
        # As while the settings are read anew.
        lock = self.settings._lock
        await lock.acquire()
        body = json.dumps({"enabled": False}).encode()
        headers = {"Content_Type": "application/json", "Content-Length": str(len(body)), "PRIVATE-TOKEN": FULL}
        self.connection.ask("/api/v4/groups/acme/dependency_proxy/settings", "PATCH", **headers)
        self.connection.send(body)
        await until(lambda: lock.waiting)
        self.connection.leave()
        await until(lambda: not self.site.channels)
        assert not self.has_logged("has changed settings")
        lock.release()
        await until(lambda: not self.settings.enabled("acme"))
        assert self.has_logged("alice (local) has changed settings of group acme: enabled = false")
        assert self.index.settings == {"acme": {"enabled": b"0"}}

    async def test_what_is_refused_changes_nothing(self) -> None:
        for body, words in (
            (b"{", "not JSON"),
            (b"", "Content-Type"),
            (b"\xff", "not JSON"),
            (b"[" * 60_000, "not JSON"),
            ([], "JSON object"),
            ("acme", "JSON object"),
            ({"enabled": 0}, "enabled must be"),
            ({"enabled": "no"}, "enabled must be"),
            ({"enabled": False, "ttl_policy": {}}, "'ttl_policy' is no setting"),
            ({"ttl_policy_enabled": 1}, "ttl_policy_enabled must be"),
            ({"ttl_policy_enabled": "true"}, "ttl_policy_enabled must be"),
            *(({"enabled": False, "ttl_days": days}, "ttl_days must be") for days in NO_DAYS),
            ({"enabled": False, "identity": "acme-bot"}, "together"),
            ({"enabled": False, "secret": "x"}, "together"),
            ({"identity": None}, "together"),
            ({"identity": "acme-bot", "secret": None}, "together"),
            ({"identity": 5, "secret": "x"}, "together"),
            ({"identity": "", "secret": "x"}, "identity must be"),
            ({"identity": "a:b", "secret": "x"}, "identity must be"),
            ({"identity": "a\nb", "secret": "x"}, "identity must be"),
            ({"identity": "a" * 256, "secret": "x"}, "identity must be"),
            ({"identity": "acme-bot", "secret": ""}, "secret must have"),
            ({"identity": "acme-bot", "secret": "x" * 256}, "secret must have"),
            ({"identity": "acme-bot", "secret": f"{SECRET}\n"}, "secret must have"),
            (b'{"identity": "acme-bot", "secret": "\\ud800"}', "secret must have"),
        ):
            answer = await self.change("acme", body, **OWNER)
            assert words in self.refused(answer, 415 if body == b"" else 400, "UNSUPPORTED"), body
        assert self.index.settings == {}

    async def test_limits(self) -> None:
        longest = {"identity": "é" * 255, "secret": "√" * 255}
        assert self.shown(await self.change("acme", longest, **OWNER))["identity"] == "é" * 255
        assert self.settings.find("docker.io", "acme") == Credential("é" * 255, "√" * 255)
        body = json.dumps({"enabled": False}).encode()
        self.shown(await self.change("acme", body + b" " * ((64 << 10) - len(body)), **OWNER))
        answer = await self.change("acme", body + b" " * (64 << 10), **OWNER)
        self.refused(answer, 413, "SIZE_INVALID")

    async def test_other_types_of_body(self) -> None:
        for kind in ("application/x-www-form-urlencoded", "text/plain", "application/jsonx"):
            answer = await self.change("acme", {"enabled": False}, **OWNER, Content_Type=kind)
            assert "application/json" in self.refused(answer, 415, "UNSUPPORTED")
        self.shown(await self.change("acme", {}, **OWNER, Content_Type="Application/JSON; charset=utf-8"))

    async def test_while_the_index_is_away(self) -> None:
        self.index.available = False
        message = self.refused(await self.change("acme", HUB, **OWNER), 504, "UNAVAILABLE")
        assert "try again" in message
        self.index.available = True
        self.shown(await self.change("acme", HUB, **OWNER))

    async def test_another_configuration(self) -> None:
        self.house.text = self.house.text.replace('alice = "owner"', 'alice = "maintainer"')
        self.administration.replace(*self.house.rules())
        self.refused(await self.change("acme", {"enabled": False}, **OWNER), 403, "DENIED")
        self.shown(await self.get("acme", **OWNER))


class Purging(ApiTestCase):
    """DELETE of what a group has in the cache."""

    async def purge(self, group: str, query: str = "", **headers: str) -> Answer:
        return await self.ask(f"/api/v4/groups/{group}/dependency_proxy/cache{query}", "DELETE", b"", headers)

    async def has(self, group: str, tag: str = "1") -> bool:
        await self.cache.background.drain()
        return await self.cache.index.get_tag(Home(group, "docker.io", APP), Tag(tag)) is not None

    async def pull(self, group: str, tag: str = "1") -> None:
        self.cache.hub.put_manifest(APP, json.dumps({"of": tag}).encode(), Tag(tag))
        await self.cache.manifests.get(Home(group, "docker.io", APP), Tag(tag))
        assert await self.has(group, tag)

    def accepted(self, answer: Answer, **expected: object) -> None:
        assert answer.status == 202, answer
        assert json.loads(answer.body) == expected
        assert answer.headers["content-type"] == "application/json"

    async def test_an_owner(self) -> None:
        await self.pull("acme")
        await self.pull("other")
        self.accepted(await self.purge("acme", **OWNER), group="acme", image=None)
        assert (await self.has("acme"), await self.has("other")) == (False, True)
        assert self.has_logged("alice (local) has ordered a purge of group acme")
        assert self.has_logged("purged group acme: 1 blob, of which 0 are removed, 0 bytes")

    async def test_ways_to_write_a_group(self) -> None:
        for written in ("acme/tools", "acme%2Ftools", "Acme%2ftools"):
            await self.pull("acme/tools")
            self.accepted(await self.purge(written, **OWNER), group="acme/tools", image=None)
            assert not await self.has("acme/tools")

    async def test_who_may_not(self) -> None:
        await self.pull("acme")
        await self.pull("acme/tools")
        message = self.refused(await self.purge("acme"), 401, "UNAUTHORIZED")
        assert "a login is needed here" in message
        self.refused(await self.purge("acme", **basic("alice", "wrong")), 401, "UNAUTHORIZED")
        message = self.refused(await self.purge("acme%2Ftools", **GUEST), 403, "DENIED")
        assert message == "group acme/tools: bob is guest; an owner may purge its cache"
        message = self.refused(await self.purge("acme", **basic("alice", LAPTOP)), 403, "DENIED")
        assert message == "group acme: a token of alice needs the scope api to purge its cache"
        for group in ("acme", "nobody"):
            message = self.refused(await self.purge(group, **GUEST), 403, "DENIED")
            assert message == f"group {group}: bob has no role here; only members of the group may pull"
        assert await self.has("acme")
        assert await self.has("acme/tools")

    async def test_a_maintainer(self) -> None:
        await self.pull("acme")
        self.house.reload('alice = "owner"', 'alice = "maintainer"')
        self.administration.replace(*self.house.rules())
        message = self.refused(await self.purge("acme", **OWNER), 403, "DENIED")
        assert message == "group acme: alice is maintainer; an owner may purge its cache"
        assert await self.has("acme")

    async def test_nothing_to_purge(self) -> None:
        message = self.refused(await self.purge("acme", **OWNER), 404, "NAME_UNKNOWN")
        assert message == "group acme: it has nothing in the cache"
        await self.pull("acme")
        for query, image in (("org%2Fapp:2", "org/app:2"), ("org/other", "org/other"), ("alpine", "alpine")):
            message = self.refused(await self.purge("acme", f"?image={query}", **OWNER), 404, "NAME_UNKNOWN")
            assert message == f"group acme: {image} is not in the cache"
        assert await self.has("acme")

    async def test_one_tag(self) -> None:
        for tag in "12":
            await self.pull("acme", tag)
        self.accepted(await self.purge("acme", "?image=org/app:1", **OWNER), group="acme", image="org/app:1")
        assert (await self.has("acme", "1"), await self.has("acme", "2")) == (False, True)
        assert self.has_logged("purged docker.io/org/app:1 of group acme: 1 blob, of which 1 is removed, ")

    async def test_a_repository(self) -> None:
        for tag in "12":
            await self.pull("acme", tag)
        self.accepted(
            await self.purge("acme", "?image=docker.io/org/app", **ADMIN), group="acme", image="docker.io/org/app"
        )
        assert (await self.has("acme", "1"), await self.has("acme", "2")) == (False, False)

    async def test_a_digest(self) -> None:
        await self.pull("acme")
        image = f"org/app@{Digest.of(json.dumps({'of': '1'}).encode())}"
        self.accepted(await self.purge("acme", f"?image={image}", **OWNER), group="acme", image=image)
        assert not await self.has("acme")
        assert self.has_logged(f"purged docker.io/{image} of group acme: 1 blob")

    async def test_what_is_no_image(self) -> None:
        await self.pull("acme")
        for query, code in (
            ("image=a:b:c", "NAME_INVALID"),
            ("image=app@sha256:12", "NAME_INVALID"),
            ("image=UPPER", "NAME_INVALID"),
            ("image=", "NAME_INVALID"),
            ("image=a&image=b", "UNSUPPORTED"),
            ("image=%C3%A9", "UNSUPPORTED"),
            ("tag=1", "UNSUPPORTED"),
        ):
            self.refused(await self.purge("acme", f"?{query}", **OWNER), 400, code)
        message = self.refused(await self.purge("acme", "?images=x", **OWNER), 400, "UNSUPPORTED")
        assert message == "'images' is no parameter of a purge; there is image"
        self.refused(await self.purge("acme", "?image=quay.example/app", **OWNER), 404, "NAME_UNKNOWN")
        assert await self.has("acme")

    async def test_other_methods(self) -> None:
        for method in ("GET", "PATCH", "POST"):
            answer = await self.ask("/api/v4/groups/acme/dependency_proxy/cache", method, b"", OWNER)
            self.refused(answer, 405, "UNSUPPORTED")
            assert answer.headers["allow"] == "DELETE"
        answer = await self.get("acme", "DELETE", **OWNER)
        assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD, PATCH")

    async def test_an_index_that_is_down(self) -> None:
        await self.pull("acme")
        self.cache.index.available = False
        message = self.refused(await self.purge("acme", **OWNER), 504, "UNAVAILABLE")
        assert message == "group acme: the cache index does not answer: try again"
        self.cache.index.available = True
        assert await self.has("acme")

    async def test_two_alike_are_one(self) -> None:
        await self.pull("acme")
        self.cache.index.blocked = True
        orders = [Deferred.fromCoroutine(self.cache.purges.order(name, "acme")) for name in ("alice", "root")]
        while not all(order.called for order in orders):
            self.cache.index.release()
        await self.cache.background.drain()
        assert self.has_logged("alice has ordered a purge of group acme")
        assert not self.has_logged("root has ordered")


class Pulling(ApiTestCase):
    """What a client notices that has a token."""

    async def pull(self, token: str, group: str = "acme") -> Answer:
        path = f"/v2/{group}/dependency_proxy/containers/{APP}/manifests/1"
        return await self.ask(path, "GET", b"", {"Authorization": f"Bearer {token}"} if token else {})

    async def token(self, *groups: str) -> str:
        account = await self.house.rules()[1].login(Login("alice", ALICE, "127.0.0.1"))
        return self.house.tokens.issue(account.identity, groups).token

    async def test_an_owner_turns_his_group_off_and_on(self) -> None:
        token = await self.token("acme", "acme/tools")
        for _ in range(2):
            assert (await self.pull(token)).status == 200
        await self.change("acme", {"enabled": False}, **OWNER)
        assert "turned off" in self.refused(await self.pull(token), 403, "DENIED")
        assert "turned off" in self.refused(await self.pull(token, "acme/tools"), 403, "DENIED")
        await self.change("acme%2Ftools", {"enabled": True}, **OWNER)
        assert (await self.pull(token, "acme/tools")).status == 200
        await self.change("acme", {"enabled": None}, **OWNER)
        assert (await self.pull(token)).status == 200

    async def test_in_another_process(self) -> None:
        """A pass that is remembered ends with the next look at the index."""
        token = await self.token("acme", "acme/tools")
        assert (await self.pull(token)).status == 200
        other = await self.process()
        await other.change("acme", {ENABLED: False})
        await self.settings.refresh()
        self.refused(await self.pull(token), 403, "DENIED")

    async def test_a_group_that_is_open(self) -> None:
        assert (await self.pull("", "open")).status == 200
        await self.change("open", {"enabled": False}, **ADMIN)
        self.refused(await self.pull("", "open"), 403, "DENIED")

    async def test_one_that_the_configuration_turns_off(self) -> None:
        await self.change("closed", {"enabled": True}, **ADMIN)
        self.refused(await self.pull(await self.token("closed"), "closed"), 403, "DENIED")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2),
    max_leaves=3,
)


@given(st.dictionaries(st.sampled_from((*KEYS, "Enabled", "")), json_values))
def test_any_body(body: dict[str, Any]) -> None:
    """It is refused, or says what the body says."""
    try:
        choices = _choices(body)
    except OCIError:
        return
    assert (ENABLED in choices) == ("enabled" in body)
    assert choices.get(ENABLED) is body.get("enabled")
    for key in (TTL_ENABLED, TTL_DAYS):
        assert (key in choices) == (key in body)
        assert choices.get(key) is body.get(key)
    assert isinstance(choices.get(TTL_ENABLED), bool | None)
    own = choices.get(CREDENTIAL)
    assert (CREDENTIAL in choices) == ("identity" in body)
    if isinstance(own, Credential):
        assert (own.username, own.password) == (body["identity"], body["secret"])
    else:
        assert body.get("identity") is body.get("secret") is None
