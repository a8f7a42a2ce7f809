"""JSON modules: `import rows from "./rows.json" with { type: "json" }` (ECMA-262,
section 16.2.1.8).

The one export is the default one, a value that all who import the file share.
"""

from __future__ import annotations

import json
import re
from typing import Final, NoReturn

from orvalho.runtime.engine import Problem
from orvalho.runtime.engines.v8.syntax import Node
from orvalho.scripts.modules import DATA

WITH_JSON: Final = 'with { type: "json" }'
_NO_CONSTANT: Final = "JSON has no NaN and no Infinity"
_JSON_TYPE: Final = re.compile(
    r"""(?:with|assert)\s*\{\s*(?:type|"type"|'type')\s*:\s*["']json["']\s*,?\s*\}"""
)


def attribute_mistake(node: Node, specifier: str) -> str | None:
    """What is wrong with the attributes of an import or re-export, or with their absence."""
    given = next((each for each in node.children if each.type == "import_attribute"), None)
    is_data = specifier.endswith(DATA)
    if given is None:
        words = f"what is imported of a .json file is data: write {WITH_JSON} behind it"
        return words if is_data else None
    text = (given.text or b"").decode("utf-8", "replace")
    if not _JSON_TYPE.fullmatch(text):
        return f"an import takes one attribute, {WITH_JSON}"
    return None if is_data else f"{WITH_JSON} is for files that end in .json"


def read_data(source: str) -> tuple[str, tuple[Problem, ...]]:
    """The module that a file of data stands for, as a source; what keeps it from being one."""
    try:
        json.loads(source, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        return "", (Problem(error.lineno, error.colno, f"this is no JSON: {error.msg}"),)
    except RecursionError:
        return "", (Problem(1, 1, "this JSON is nested too deeply"),)
    except ValueError as error:
        return "", (Problem(1, 1, f"this is no JSON: {error}"),)
    # As a text: within an expression the key "__proto__" would mean something else.
    return f"export default JSON.parse({json.dumps(source)});", ()


def _refuse_constant(_word: str) -> NoReturn:
    raise ValueError(_NO_CONSTANT)
