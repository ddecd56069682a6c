"""tickets

Revises: 8285e560b028
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0171260450f1"
down_revision = "8285e560b028"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "event_copies",
        sa.Column("event_id", sa.Uuid(), nullable=False),
        sa.Column("organizer", sa.Text(), nullable=False),
        sa.Column("identifier", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("timezone", sa.Text(), nullable=False),
        sa.Column("starts_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ends_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("list_version", sa.BigInteger(), server_default=sa.text("1"), nullable=False),
        sa.PrimaryKeyConstraint("event_id", name=op.f("pk_event_copies")),
    )
    op.create_index("ix_event_copies_identifier", "event_copies", ["identifier"], unique=False)
    op.create_table(
        "idempotency_keys",
        sa.Column("org", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("operation", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("request_hash", sa.LargeBinary(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("body", sa.LargeBinary(), nullable=True),
        sa.Column("headers", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("org", "subject", "operation", "key", name=op.f("pk_idempotency_keys")),
    )
    op.create_index("ix_idempotency_keys_expires_at", "idempotency_keys", ["expires_at"], unique=False)
    op.create_table(
        "tickets",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("event_id", sa.Uuid(), nullable=False),
        sa.Column("organizer", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("price_minor", sa.BigInteger(), nullable=True),
        sa.Column("min_price_minor", sa.BigInteger(), nullable=True),
        sa.Column("max_price_minor", sa.BigInteger(), nullable=True),
        sa.Column("currency", sa.Text(), nullable=True),
        sa.Column("quantity", sa.Integer(), nullable=False),
        sa.Column("min_order", sa.Integer(), nullable=False),
        sa.Column("max_order", sa.Integer(), nullable=False),
        sa.Column("is_hidden", sa.Boolean(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("sales_starts_local", sa.DateTime(), nullable=False),
        sa.Column("sales_starts_fold", sa.SmallInteger(), nullable=False),
        sa.Column("sales_starts_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("sales_starts_text", sa.Text(), nullable=False),
        sa.Column("sales_ends_local", sa.DateTime(), nullable=False),
        sa.Column("sales_ends_fold", sa.SmallInteger(), nullable=False),
        sa.Column("sales_ends_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("sales_ends_text", sa.Text(), nullable=False),
        sa.Column("tzdata_version", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), server_default=sa.text("1"), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column(
            "updated_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.CheckConstraint(
            "coalesce(CASE type WHEN 'free' THEN num_nonnulls(price_minor, min_price_minor, max_price_minor, currency) = 0 WHEN 'paid' THEN price_minor > 0 AND currency IS NOT NULL AND num_nonnulls(price_minor, min_price_minor, max_price_minor) = 1 ELSE price_minor IS NULL AND min_price_minor >= 0 AND currency IS NOT NULL AND (max_price_minor IS NULL OR max_price_minor >= greatest(min_price_minor, 1)) END, false)",
            name=op.f("ck_tickets_price"),
        ),
        sa.CheckConstraint("currency ~ '^[A-Z]{3}$'", name=op.f("ck_tickets_currency")),
        sa.CheckConstraint("type IN ('free', 'paid', 'donation')", name=op.f("ck_tickets_type")),
        sa.CheckConstraint(
            "1 <= min_order AND min_order <= max_order AND min_order <= quantity",
            name=op.f("ck_tickets_order_size"),
        ),
        sa.CheckConstraint("position > 0", name=op.f("ck_tickets_position")),
        sa.CheckConstraint("quantity > 0", name=op.f("ck_tickets_quantity")),
        sa.CheckConstraint("sales_starts_at < sales_ends_at", name=op.f("ck_tickets_sales_window")),
        sa.CheckConstraint(
            "sales_starts_fold IN (0, 1) AND sales_ends_fold IN (0, 1)", name=op.f("ck_tickets_folds")
        ),
        sa.ForeignKeyConstraint(
            ["event_id"], ["event_copies.event_id"], name=op.f("fk_tickets_event_id_event_copies")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tickets")),
        sa.UniqueConstraint(
            "event_id", "position", deferrable=True, initially="DEFERRED", name=op.f("uq_tickets_event_id_position")
        ),
    )
    op.create_index(
        "uq_tickets_event_id_lower_name", "tickets", ["event_id", sa.literal_column("lower(name)")], unique=True
    )


def downgrade() -> None:
    op.drop_index("uq_tickets_event_id_lower_name", table_name="tickets")
    op.drop_table("tickets")
    op.drop_index("ix_idempotency_keys_expires_at", table_name="idempotency_keys")
    op.drop_table("idempotency_keys")
    op.drop_index("ix_event_copies_identifier", table_name="event_copies")
    op.drop_table("event_copies")
