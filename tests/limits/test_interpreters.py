"""A subinterpreter cannot import fastio, and the error says so at once."""

import testbed


def test_another_interpreter_is_refused_in_words() -> None:
    code = """
import _testcapi
import sys
ended = _testcapi.run_in_subinterp('''
try:
    import fastio
except ImportError as error:
    print("refused:", error)
else:
    print("imported")
''')
assert ended == 0
import fastio
print(fastio.__version__)
"""
    said = testbed.run_python(code, timeout_s=60).check().stdout
    assert "refused: " in said
    assert "main interpreter" in said
