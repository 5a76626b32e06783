"""Whether all is right with the store: `depproxy fsck`."""

from depproxy.cache.check import Checker, Found, Verified
from depproxy.storage.interface import SHARDS
from depproxy.web.admin.answers import Document
from depproxy.web.admin.application import AdminApplication
from depproxy.web.admin.ask import Ask
from depproxy.web.admin.progress import Progress


class CheckFace:
    """Checks the store, and repairs it."""

    app = AdminApplication()

    def __init__(self, checker: Checker) -> None:
        self._checker = checker

    @app.tells("/v1/fsck", "verify", "repair")
    async def check(self, ask: Ask, progress: Progress) -> Document:
        """A line for each finding, and now and then one about how far it is. Who leaves ends it."""

        async def tell(step: Found | Verified) -> None:
            await progress.tell(_found(step) if isinstance(step, Found) else {"verified": _verified(step)})

        found = await self._checker.check(tell, verify=ask.flag("verify"), repair=ask.flag("repair"))
        sums = found.sums
        return {
            "clean": found.clean,
            "repair": ask.flag("repair"),
            "no_entry": found.swept.adopted,
            "no_file": found.swept.forgotten,
            "verified": None if found.verified is None else _verified(found.verified),
            "wrong_sums": None
            if sums is None
            else [{"group": one.group, "kept": one.kept, "counted": one.counted} for one in sums],
            "sums_repaired": found.repaired,
        }


def _found(found: Found) -> Document:
    difference = found.difference
    return {
        "found": difference.kind,
        "digest": difference.digest,
        "bytes": difference.size,
        "repaired": found.repaired,
    }


def _verified(verified: Verified) -> Document:
    return {
        "files": verified.files,
        "bytes": verified.size,
        "damaged": verified.wrong,
        "done": round(verified.shards / SHARDS, 3),
    }
