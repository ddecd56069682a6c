"""limits per order

Revises: ad8f63978edc

Expand: `min_order` and `max_order` become `min_per_order` and `max_per_order`. A trigger keeps both pairs equal
while pods of the release before read and write the old names. A later release drops the trigger and the old pair.
"""

import sqlalchemy as sa
from alembic import op

revision = "5d1c7e0a94b3"
down_revision = "ad8f63978edc"
branch_labels = None
depends_on = None

# An INSERT names one pair. In an UPDATE the pair that changes wins. The rules of the table see the outcome.
FUNCTION = """
CREATE FUNCTION tickets_copy_limits_per_order() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        NEW.min_per_order := coalesce(NEW.min_per_order, NEW.min_order);
        NEW.max_per_order := coalesce(NEW.max_per_order, NEW.max_order);
    ELSE
        IF NEW.min_order IS DISTINCT FROM OLD.min_order THEN NEW.min_per_order := NEW.min_order; END IF;
        IF NEW.max_order IS DISTINCT FROM OLD.max_order THEN NEW.max_per_order := NEW.max_order; END IF;
    END IF;
    NEW.min_order := NEW.min_per_order;
    NEW.max_order := NEW.max_per_order;
    RETURN NEW;
END $$
"""


def upgrade() -> None:
    op.add_column("tickets", sa.Column("min_per_order", sa.Integer(), nullable=True))
    op.add_column("tickets", sa.Column("max_per_order", sa.Integer(), nullable=True))
    # One statement: an event has a few types of ticket, not one row for each admission.
    op.execute("UPDATE tickets SET min_per_order = min_order, max_per_order = max_order")
    op.execute(FUNCTION)
    op.execute(
        "CREATE TRIGGER copy_limits_per_order BEFORE INSERT OR UPDATE ON tickets"
        " FOR EACH ROW EXECUTE FUNCTION tickets_copy_limits_per_order()"
    )


def downgrade() -> None:
    op.execute("DROP TRIGGER copy_limits_per_order ON tickets")
    op.execute("DROP FUNCTION tickets_copy_limits_per_order()")
    op.drop_column("tickets", "max_per_order")
    op.drop_column("tickets", "min_per_order")
