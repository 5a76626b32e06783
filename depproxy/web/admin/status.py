"""How the service is: `depproxy status`."""

from depproxy import __version__
from depproxy.web.admin.answers import Document
from depproxy.web.admin.application import AdminApplication
from depproxy.web.admin.ask import Ask


class StatusFace:
    """Answers without the index, too."""

    app = AdminApplication()

    @app.answers("GET", "/v1/status")
    async def status(self, ask: Ask) -> Document:
        """Everything that is known without asking anybody."""
        return {"version": __version__}
