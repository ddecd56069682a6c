"""Problem documents (RFC 9457): the one form in which a service refuses a request.

Define each refusal as a subclass of ``Problem`` beside the code that raises it. ``shared.http.problems`` builds the
response. Standard library only.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar


@dataclasses.dataclass(frozen=True, slots=True)
class FieldError:
    """One error of the input: the dotted path of its field, or the archive member, and a message.

    ``details`` are JSON values for programs, such as ``alternatives``.
    """

    field: str
    message: str
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return {**self.details, "field": self.field, "message": self.message}


class Problem(Exception):
    """The base of all refusals. ``detail`` says what is wrong, the rule and the way out.

    ``field`` names the input field or archive member. ``extensions`` are members of that field's error if there is
    one, else of the document.
    """

    status: ClassVar[int] = 400
    code: ClassVar[str] = "bad-request"
    title: ClassVar[str] = "Bad request"

    def __init__(
        self,
        detail: str,
        *,
        field: str | None = None,
        errors: Sequence[FieldError] = (),
        headers: dict[str, str] | None = None,
        **extensions: Any,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.headers = headers
        self.errors = list(errors)
        self.extensions = extensions
        if field is not None:
            self.errors.append(FieldError(field, detail, extensions))
            self.extensions = {}

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions pickle as a call with their ``args``, which does not fit the signatures of subclasses.
        return _unpickled, (type(self), self.args), self.__dict__

    def document(self) -> dict[str, Any]:
        return problem_document(self.status, self.code, self.title, self.detail, self.errors, **self.extensions)


class NotFound(Problem):
    """Also raised for what belongs to another organizer, whose existence must stay unknown."""

    status = 404
    code = "not-found"
    title = "Not found"


class Conflict(Problem):
    status = 409
    code = "conflict"
    title = "Conflict with the current state"


class Invalid(Problem):
    status = 422
    code = "invalid"
    title = "Invalid input"


class TooLarge(Problem):
    status = 413
    code = "too-large"
    title = "Content too large"


class Unavailable(Problem):
    status = 503
    code = "unavailable"
    title = "Dependency unavailable"


def _unpickled(problem: type[Problem], args: tuple[object, ...]) -> Problem:
    return problem.__new__(problem, *args)


def problem_document(
    status: int, code: str, title: str, detail: str, errors: Sequence[FieldError] = (), **extensions: Any
) -> dict[str, Any]:
    return {
        **extensions,
        "type": f"urn:rostrum:problem:{code}",
        "title": title,
        "status": status,
        "code": code,
        "detail": detail,
        "errors": [error.as_json() for error in errors],
    }
