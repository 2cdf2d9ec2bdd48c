"""The command ``toroid``, also ``python -m toroid``; it needs the extra ``book``."""

from __future__ import annotations


def main() -> None:
    """Run the command line; without its packages, say how to get them."""
    try:
        from .book.cli import main as command

        command(prog_name="toroid")
    except ModuleNotFoundError as error:
        raise SystemExit(
            f'{error}. The command line needs more than the library: pip install "toroid[book]"'
        ) from error
    except KeyboardInterrupt:  # while the rest of its packages load
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
