from media.models import Base
from media.settings import MediaSettings
from shared.migrations import run

run(MediaSettings, Base.metadata)
