"""Which group, and which image, an operator means."""

from collections.abc import Set

from depproxy.access.roles import lineage
from depproxy.config.names import group_path
from depproxy.index.interface import Home
from depproxy.oci.errors import OCIError
from depproxy.oci.image import ImageNames, parse_image, refuse_address, split_image
from depproxy.oci.reference import Reference
from depproxy.web.admin.answers import AdminError
from depproxy.web.admin.ask import Ask

# So many groups a message names.
SHOWN = 20


class Named:
    """
    Reads names of images as users write them. `names`, the `group` that counts where none is named, and the `groups`
    that there are (None: that is not known here, as with accounts that live elsewhere) may be replaced at any time.
    """

    def __init__(self, names: ImageNames, group: str, groups: Set[str] | None = None) -> None:
        self.names = names
        self.group = group
        self.groups = groups

    def group_of(self, ask: Ask) -> str:
        """The group of the argument `group`. Raises AdminError."""
        try:
            return group_path(ask.text("group") or self.group)
        except ValueError as error:
            raise AdminError(f"group {error}") from None

    def pulled_by(self, ask: Ask) -> str:
        """The same, for who wants something for it: a group from which nobody can pull is a mistake. Raises
        AdminError."""
        group = self.group_of(ask)
        if self.groups is not None and self.groups.isdisjoint(lineage(group)):
            raise AdminError(f"there is no group {group}; there are {', '.join(sorted(self.groups)[:SHOWN])}")
        return group

    def image_of(self, ask: Ask) -> tuple[Home, Reference]:
        """The image of the arguments `image` and `group`. Raises AdminError."""
        try:
            name, reference = parse_image(_image(ask))
        except ValueError as error:
            raise AdminError(str(error)) from None
        return self._home(ask, name), reference

    def repository_of(self, ask: Ask) -> Home:
        """The repository that `image` names without a tag or digest. Raises AdminError."""
        try:
            refuse_address(text := _image(ask))
            name, reference = split_image(text)
        except ValueError as error:
            raise AdminError(str(error)) from None
        if reference is not None:
            raise AdminError(f"all tags of a repository are meant: give the repository without a tag, {name}")
        return self._home(ask, name)

    def _home(self, ask: Ask, name: str) -> Home:
        try:
            return Home(self.group_of(ask), *self.names.find(name))
        except OCIError as error:
            raise AdminError(str(error)) from None


def _image(ask: Ask) -> str:
    text = ask.text("image")
    if text is None:
        raise AdminError("image must name an image, such as alpine:3.20")
    return text
