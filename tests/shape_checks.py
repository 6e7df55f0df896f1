"""What jaxtyping's import hook checks the annotated functions with: types by beartype, shapes by
jaxtyping itself. An int is taken for a float, as pyright does."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
