"""Klein for admin faces: methods that get arguments and give documents."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

from twisted.internet.defer import CancelledError
from twisted.python.failure import Failure
from twisted.web.http import Request
from twisted.web.server import Site

from depproxy.web.admin.answers import Document, answer, as_error
from depproxy.web.admin.ask import Ask
from depproxy.web.admin.progress import Progress
from depproxy.web.routing import Application

Answering = TypeVar("Answering", bound=Callable[[Any, Ask], Awaitable[Document]])
Telling = TypeVar("Telling", bound=Callable[[Any, Ask, Progress], Awaitable[Document]])


class AdminApplication(Application):
    """
    The application of a face, a class attribute of it like Klein's own.

    A path is the whole of it, such as `/v1/status`; names of methods are the face's own. What a method raises becomes
    `{"error": "..."}`: AdminError with its own message and status, other errors as `answers.as_error` says.
    """

    def __init__(self) -> None:
        super().__init__()
        self.handle_errors(Exception)(_failed)  # type: ignore[arg-type]  # Klein types handlers by IRequest.

    def answers(self, method: str, path: str, *names: str) -> Callable[[Answering], Answering]:
        """Decorates `async def face(self, ask) -> Document`; `names` are those of the arguments that it reads."""

        def decorate(handler: Answering) -> Answering:
            async def handle(face: object, request: Request) -> bytes:
                return answer(request, await handler(face, Ask.of(request, method.encode(), names)))

            self.route(path, endpoint=handler.__name__)(handle)
            return handler

        return decorate

    def tells(self, path: str, *names: str) -> Callable[[Telling], Telling]:
        """Decorates `async def face(self, ask, progress) -> Document`, asked by POST, whose document is the last
        line."""

        def decorate(handler: Telling) -> Telling:
            async def handle(face: object, request: Request) -> None:
                ask = Ask.of(request, b"POST", names)
                # Whose channel it is.
                clock = cast(Site, cast(Any, request).site).reactor
                await _told(handler(face, ask, progress := Progress(request, clock)), progress)

            self.route(path, endpoint=handler.__name__)(handle)
            return handler

        return decorate


async def _told(operation: Awaitable[Document], progress: Progress) -> None:
    try:
        progress.end(await operation)
    except CancelledError:
        progress.close()
        raise
    except Exception:
        if not progress.fail(Failure()):
            raise


def _failed(_face: object, request: Request, failure: Failure) -> bytes | None:
    """Answer with what a handler raised, or cut the connection, so that nobody takes a part for the whole."""
    error = as_error(failure)
    if request.startedWriting:
        cast(Any, request.channel).abortConnection()
        return None
    return answer(request, {"error": str(error)}, error.status)
