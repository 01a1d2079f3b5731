"""Calls to language models, on the package ``lm15`` of PyPI; only ``dspy_bridge.py`` imports dspy.

An adapter that calls models needs two objects and one method::

    endpoints = Endpoints(local_model_url)              # one per adapter: it holds the connections
    engine = RunEngine(run, await endpoints.of(run.program))
    answer = await engine.answer(lm15.serde.request_to_dict(request))
    response = lm15.serde.response_from_dict(answer)

``answer`` takes and gives lm15's canonical form as plain data: what is hashed, journaled and replayed. In between are
the journal, transient retries, permits, usage and cost; what goes wrong is a ModelError by the table of ``errors.py``.
``request.model`` is the program's spelling: the endpoint puts the server's in its place. ``engine.endpoint`` says
what the model takes (``supports_response_schema`` …), ``engine.was_cut`` whether the last answer ended at a limit of
tokens. Around an answer and its repair an adapter sets an ``Exchange`` (``exchange.py``).

DSPy carries a copy of lm15 under another name, whose objects these are not: ``dspy_bridge.py`` passes requests and
answers between the two as that same data (18 µs a call). So a worker without DSPy programs never loads dspy.
"""
