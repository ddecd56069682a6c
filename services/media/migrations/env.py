from media.models import Base
from media.settings import MediaSettings
from shared.database.migrations import run

run(MediaSettings, Base.metadata)
