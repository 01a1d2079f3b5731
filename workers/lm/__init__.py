"""Calls to language models, on the package ``lm15`` of PyPI.

An adapter that calls models needs two objects and one method::

    endpoints = Endpoints(local_model_url)              # one per adapter: it holds the connections
    engine = await engine_of(run, endpoints)            # its model, and the models of its fallback
    answer = await engine.answer(lm15.serde.request_to_dict(request))
    response = lm15.serde.response_from_dict(answer)

``answer`` takes and returns lm15's canonical form as plain data, which is hashed, journaled and replayed. In between:

``model_calls.py``   replay the answer if the journal has it; else retry, wait for a permit, ask, and store the answer
``journal.py``       finds and stores answers
``call_retries.py``  retries within the attempt
``limits/``          permits and budgets
``engine.py``        asks the endpoint; usage and cost

Failures are ModelErrors, by the table of ``model_errors.py``. ``request.model`` is the program's spelling: the endpoint
replaces it with the server's. ``engine.endpoint`` has what the model takes (``supports_response_schema`` …),
``engine.was_cut`` whether the last answer ended at a limit of tokens. Around an answer and its repair an adapter sets
an ``Exchange`` (``exchange.py``).

DSPy has a copy of lm15 with other classes: ``workers/adapters/dspy/engine_bridge.py`` passes requests and answers
between the two as that plain data (18 µs a call). So a worker without DSPy programs never loads dspy.
"""
