"""The programs on real servers and a real worker, with a model that answers by a script: see dspex.testing."""

from support_desk import programs


def test_an_answer_comes_from_the_document_that_was_found(dspex_client, dspex_worker, dspex_model, dspex_no_paid_calls):
    dspex_client.deploy(dspex_model.serve(programs.answers))
    dspex_model.script(answers=[{"answer": "30 days."}])
    question = "How many days do I have to send it back?"
    answered = dspex_client.execute("desk_answers", {"question": question}, timeout=60)
    assert dict(answered) == {"answer": "30 days.", "source": "returns"}
    assert "within 30 days" in str(dspex_model.requests[-1])


def test_the_agent_uses_its_tools(dspex_client, dspex_worker, dspex_model):
    dspex_client.deploy(dspex_model.serve(programs.agent))
    dspex_model.script(
        answers=[
            {"next_thought": "?", "next_tool_name": "order_status", "next_tool_args": {"order": "1002"}},
            {"next_thought": "!", "next_tool_name": "finish", "next_tool_args": {}},
            {"reasoning": "So.", "reply": "On Thursday."},
        ]
    )
    replied = dspex_client.execute("desk_agent", {"request": "Where is 1002?"}, timeout=60)
    assert replied.reply == "On Thursday."
    assert "expected on Thursday" in str(dspex_model.requests[-1])


def test_a_ticket_is_classified_after_the_examples_of_the_optimiser(dspex_client, dspex_worker, dspex_model):
    dspex_client.deploy(dspex_model.serve(programs.triage))
    queue = dspex_client.execute("desk_triage", {"ticket": "It is broken."}, timeout=60).queue
    assert queue in ("billing", "delivery", "fault")
    roles = [message["role"] for message in dspex_model.requests[-1]["messages"]]
    assert roles.count("assistant") >= 3
