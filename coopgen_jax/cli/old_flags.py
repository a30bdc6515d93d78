"""Flags and values of earlier releases: they go on working under the names that they have now."""

from collections.abc import Sequence

from coopgen_jax.errors import UserError

# Of `coopgen generate`, `compare` and `plan`.
METHODS = {
    "--width": "--foresight-power",
    "--enough": "--visit-limit",
    "--full-share": "--mix-base",
}
# Of `coopgen train`.
TRAININGS = {
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


def renamed(arguments: Sequence[str], flags: dict[str, str]) -> list[str]:
    """Returns arguments with the present names of flags, which may have underscores, and values.

    `flags` are present names by former ones, `METHODS` or `TRAININGS`.
    """
    found: list[str] = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if argument.startswith("--"):
            name = name.replace("_", "-")
            name = flags.get(name, name)
            value = VALUES.get(name, {}).get(value, value)
            found.append(f"{name}{equals}{value}")
        else:
            before = found[-1] if found else ""
            found.append(VALUES.get(before, {}).get(argument, argument))
    return found


def without_policy(arguments: Sequence[str]) -> list[str]:
    """Returns arguments without `--policy spread`, the one policy that is left.

    Raises:
      UserError: they name another policy.
    """
    found, words = [], iter(arguments)
    for word in words:
        name, separator, value = word.partition("=")
        if name != "--policy":
            found.append(word)
        elif (value := value if separator else next(words, "")) != "spread":
            raise UserError(
                f"--policy {value} is gone, for measurements did not tell it from the default: "
                "leave it out"
            )
    return found
