"""The other services beside events, for a drill that is about every role there is."""

from pathlib import Path

from deploy.local.cluster import SERVICES
from exports.settings import ExportsSettings
from media.settings import MediaSettings
from shared.database.provisioning import provision
from testkit.plugin import SIGNING_KEY, TokenFactory
from tests.drills.roles import Part
from tests.drills.stage import Stage
from tickets.settings import TicketsSettings

_SETTINGS = (TicketsSettings(), MediaSettings(), ExportsSettings())
OTHER_ROLES = tuple(
    Part(f"{settings.service}.{role}") for settings in _SETTINGS for role in SERVICES[settings.service]
)


async def prepare_other_services(stage: Stage, tokens: TokenFactory, folder: Path) -> None:
    """Their tables, and what their roles find in their environment."""
    for settings in _SETTINGS:
        await provision(stage.database.url(), {settings.service: "secret"})
        await stage.migrate(settings)
    token = folder / "token"
    token.write_text(tokens.service("exports")["Authorization"].removeprefix("Bearer "))
    stage.settings |= {
        "SERVICE_TOKEN_FILE": str(token),
        "STORAGE_FOLDER": str(folder / "storage"),
        "STORAGE_SIGNING_KEY": SIGNING_KEY,
    }
