"""The jobs of the service, by their names on the queue, and that queue."""

from shared.settings import Settings

RUN_IMPORT = "exports.run_import"
RUN_EXPORT = "exports.run_export"


def job_queue(settings: Settings) -> str:
    return f"{settings.service}.jobs"
