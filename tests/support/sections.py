"""What a section of the report says."""

from tune_jobs.report.page import Bullets


def words_of(section):
    parts = [part for part in section.parts if isinstance(part, str | Bullets)]
    return " ".join(part if isinstance(part, str) else " ".join(part.items) for part in parts)


def rows_of(section, name):
    (table,) = [table for table in section.tables if table.name == name]
    return table.rows
