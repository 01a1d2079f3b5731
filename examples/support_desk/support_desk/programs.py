"""The three programs: ``dspex deploy examples/support_desk/support_desk/programs.py`` deploys them.

The modules and tools are named, not imported: deploying needs neither DSPy nor the package itself.
"""

import json
import os
from pathlib import Path

import dspex

MODEL = os.environ.get("SUPPORT_DESK_MODEL", "smollm2")
API_BASE = os.environ.get("SUPPORT_DESK_API_BASE")
HERE = Path(__file__).parent
#: Handwritten, for each predictor of a program: a small model follows examples more than instructions.
EXAMPLES = json.loads((HERE / "examples.json").read_text())
#: Found by an optimiser: see optimise.py.
OPTIMISED = json.loads((HERE / "triage.json").read_text())

answers = dspex.Program(
    "desk_answers",
    'signature desk_answers "Answer the customer from our documents, in one short sentence.": '
    ":string(min_length=1) question -> :string(max_length=300) answer, :string source",
    module="support_desk.answers:AnswersFromDocuments",
    module_options={"passages": 1},
    state=EXAMPLES["desk_answers"],
    model=MODEL,
    api_base=API_BASE,
    temperature=0.0,
    max_tokens=120,
)

agent = dspex.Program(
    "desk_agent",
    'signature desk_agent "Help the customer with the tools you have.": '
    ":string(min_length=1) request -> :string(max_length=300) reply",
    module="react",
    module_options={"max_iters": 2},
    tools=["support_desk.tools:order_status", "support_desk.tools:opening_hours"],
    state=EXAMPLES["desk_agent"],
    model=MODEL,
    api_base=API_BASE,
    temperature=0.0,
    max_tokens=120,
)

triage = dspex.Program(
    "desk_triage",
    'signature desk_triage "Which queue does this ticket belong to?": '
    ':string(min_length=1) ticket -> :enum("billing", "delivery", "fault") queue',
    model=MODEL,
    api_base=API_BASE,
    temperature=0.0,
    max_tokens=20,
    state=OPTIMISED,
)
