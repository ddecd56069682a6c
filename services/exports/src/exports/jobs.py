"""The jobs of the service, by their names on the queue."""

RUN_IMPORT = "exports.run_import"
RUN_EXPORT = "exports.run_export"
