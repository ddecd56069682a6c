import pickle

from shared.problems import FieldError, Invalid, Problem, TooLarge


class FileTooLarge(TooLarge):
    code = "file-too-large"

    def __init__(self, max_size: int) -> None:
        super().__init__(f"At most {max_size} bytes.", field="file", max_size=max_size)


def test_problems_pass_between_processes_unchanged() -> None:
    problems: list[Problem] = [
        FileTooLarge(10),
        Invalid("Wrong.", errors=[FieldError("a.b", "no", {"alternatives": [1]})], headers={"ETag": '"1"'}, more=2),
    ]
    for problem in problems:
        copy = pickle.loads(pickle.dumps(problem))
        assert type(copy) is type(problem)
        assert copy.document() == problem.document()
        assert copy.headers == problem.headers
        assert str(copy) == str(problem)
