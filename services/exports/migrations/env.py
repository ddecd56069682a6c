from exports.models import Base
from exports.settings import ExportsSettings
from shared.migrations import run

run(ExportsSettings, Base.metadata)
