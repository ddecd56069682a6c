"""The master process of a worker. It imports only dramatiq, because it idles beside the child that works."""

from dramatiq.cli import main as run_dramatiq
from dramatiq.cli import make_argument_parser


def run_worker(create_broker: str, *, threads: int) -> int:
    """Run dramatiq with the broker of ``create_broker`` (``module:function``), ``threads`` jobs at once."""
    arguments = make_argument_parser().parse_args(  # type: ignore[no-untyped-call]
        [create_broker, "--processes", "1", "--threads", str(threads), "--worker-shutdown-timeout", "60000"]
    )
    code: int = run_dramatiq(arguments)  # type: ignore[no-untyped-call]
    return code
