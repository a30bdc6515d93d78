"""Flags and values of earlier releases: they go on working under the names that they have now."""

from collections.abc import Sequence

# Of `coopgen train`.
FLAGS = {
    "--pieces": "--micro-batches",
    "--judge-steps": "--discriminator-steps",
    "--first-judge-steps": "--first-discriminator-steps",
    "--judge-rows": "--discriminator-rows",
    "--judge-reads": "--discriminator-reads",
    "--judge-model": "--discriminator-model",
    "--judge-dropout": "--discriminator-dropout",
    "--judge-learning-rate": "--discriminator-learning-rate",
}
VALUES = {"--discriminator-reads": {"beginnings": "prefixes"}}


def renamed(arguments: Sequence[str]) -> list[str]:
    """Returns arguments with the present names of flags and values; see `FLAGS` and `VALUES`."""
    found: list[str] = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if argument.startswith("--"):
            name = FLAGS.get(name.replace("_", "-"), name)
            value = VALUES.get(name, {}).get(value, value)
            found.append(f"{name}{equals}{value}")
        else:
            before = found[-1] if found else ""
            found.append(VALUES.get(before, {}).get(argument, argument))
    return found
