"""The bus: outbox → relay → RabbitMQ → consumer → inbox.

Promise: a committed message is published at least once, in ``aggregateseq`` order per aggregate, and handled with
one effect. No order is promised across aggregates.
"""
