"""positions of the inbox

Revises: 23f1a64fbf2d
"""

import sqlalchemy as sa
from alembic import op

revision = "8490f8dbc32a"
down_revision = "23f1a64fbf2d"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # A queue's rows die soon: at the default of a fifth of the table its dead rows would slow every read.
    op.execute("ALTER TABLE outbox SET (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000)")
    op.create_table(
        "inbox_positions",
        sa.Column("aggregate_type", sa.Text(), nullable=False),
        sa.Column("aggregate_id", sa.Uuid(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("aggregate_type", "aggregate_id", name=op.f("pk_inbox_positions")),
    )


def downgrade() -> None:
    op.execute("ALTER TABLE outbox RESET (autovacuum_vacuum_scale_factor, autovacuum_vacuum_threshold)")
    op.drop_table("inbox_positions")
