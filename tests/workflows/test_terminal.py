import io

from rich.table import Table

from proxtune.workflows.terminal import terminal


def test_text_is_printed_as_it_is_in_lines_and_in_tables() -> None:
    console = terminal(file=io.StringIO(), width=100, record=True)
    table = Table("a [b]", title="[red]")
    table.add_row("runs/[1]/x :smile:")
    console.print("runs/[/2]/x", table)
    said = console.export_text()
    assert all(each in said for each in ("runs/[/2]/x", "a [b]", "[red]", "runs/[1]/x :smile:"))
