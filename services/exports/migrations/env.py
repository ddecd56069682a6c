from exports.models import Base
from exports.settings import ExportsSettings
from shared.database.migrations import run

run(ExportsSettings, Base.metadata)
