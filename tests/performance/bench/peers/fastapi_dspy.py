"""What people do today: FastAPI and dspy.Predict in one process, ``python fastapi_dspy.py PORT``. Nothing is stored."""

import os
import sys

import dspy
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()
predict = dspy.Predict("question -> answer")
dspy.configure(lm=dspy.LM("openai/fake", api_base=os.environ["PEER_MODEL"], api_key="none", cache=False))


class Question(BaseModel):
    question: str


@app.post("/ask")
async def ask(question: Question) -> dict[str, str]:
    return {"answer": (await predict.acall(question=question.question)).answer}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=False)
