"""Several tries, several models, several examples: modules that choose among answers."""

from __future__ import annotations

import dspy

from tests.compat.pattern import pattern

QA = "question -> answer"
ASK = {"question": "What is the capital of France?"}
EXAMPLES = [dspy.Example(question=f"{n}+{n}?", answer=str(2 * n)).with_inputs("question") for n in range(1, 6)]


def length(args, prediction):
    return len(prediction.answer) / 100


def never(args, prediction):
    return 0.0


@pattern(QA, ASK)
class OwnBestOfN(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.best = dspy.BestOfN(dspy.ChainOfThought(QA), N=3, reward_fn=length, threshold=1.0)

    def forward(self, question):
        return self.best(question=question)


@pattern(QA, ASK)
class BestOfNFirst(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.best = dspy.BestOfN(dspy.Predict(QA), N=3, reward_fn=length, threshold=0.0)

    def forward(self, question):
        return self.best(question=question)


ADVICE = {"advice": {"predict": "Be shorter.", "self": "Be shorter."}}


@pattern(QA, ASK, answers=ADVICE)
class OwnRefine(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.refine = dspy.Refine(dspy.ChainOfThought(QA), N=3, reward_fn=never, threshold=1.0)

    def forward(self, question):
        return self.refine(question=question)


@pattern(QA, ASK, answers=ADVICE)
class RefinePredict(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.refine = dspy.Refine(dspy.Predict(QA), N=2, reward_fn=never, threshold=1.0)

    def forward(self, question):
        return self.refine(question=question)


@pattern(QA, ASK, answers=ADVICE)
def refine_itself():
    return dspy.Refine(dspy.ChainOfThought(QA), N=2, reward_fn=never, threshold=1.0)


@pattern(QA, ASK)
def best_of_n_itself():
    return dspy.BestOfN(dspy.ChainOfThought(QA), N=2, reward_fn=never, threshold=1.0)


@pattern(QA, ASK, answers={**ADVICE, "score": 0.1})
class RefineJudge(dspy.Module):
    """The reward asks the model."""

    def __init__(self) -> None:
        super().__init__()
        judge = dspy.Predict("question, answer -> score: float")

        def reward(args, prediction):
            return judge(question=args["question"], answer=prediction.answer).score

        self.refine = dspy.Refine(dspy.Predict(QA), N=2, reward_fn=reward, threshold=0.9)

    def forward(self, question):
        return self.refine(question=question)


@pattern(QA, ASK)
class Majority(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict(QA, n=5)

    def forward(self, question):
        return dspy.majority(self.ask(question=question))


@pattern(QA, ASK)
class SelfConsistency(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.ChainOfThought(QA)

    def forward(self, question):
        found = [self.ask(question=question, config={"temperature": 0.5, "rollout_id": n}) for n in range(3)]
        return dspy.majority(found, field="answer")


@pattern(QA, ASK)
class Comparison(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.ChainOfThought(QA, n=3)
        self.compare = dspy.MultiChainComparison(QA, M=3)

    def forward(self, question):
        chains = self.ask(question=question).completions
        return self.compare(chains, question=question)


@pattern(QA, ASK)
def dspy_ensemble():
    programs = [
        dspy.ChainOfThought(dspy.Signature(QA).with_instructions(style)) for style in ("Be brief.", "Be exact.")
    ]
    return dspy.Ensemble(reduce_fn=dspy.majority).compile(programs)


@pattern(QA, ASK)
def labeled_few_shot():
    return dspy.LabeledFewShot(k=2).compile(dspy.ChainOfThought(QA), trainset=EXAMPLES, sample=False)


@pattern(QA, ASK)
class Critique(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.draft = dspy.ChainOfThought(QA)
        self.critique = dspy.ChainOfThought("question, answer -> critique, is_good: bool")
        self.revise = dspy.ChainOfThought("question, answer, critique -> better_answer")

    def forward(self, question):
        answer = self.draft(question=question).answer
        for _ in range(2):
            critique = self.critique(question=question, answer=answer)
            if critique.is_good:
                break
            answer = self.revise(question=question, answer=answer, critique=critique.critique).better_answer
        return dspy.Prediction(answer=answer)


@pattern(QA, ASK, answers={"is_good": False})
class CritiqueTwice(Critique):
    """The critic is never content."""


@pattern(QA, ASK)
class OwnVote(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.voters = [dspy.ChainOfThought(QA), dspy.Predict(QA)]

    def forward(self, question):
        votes = [voter(question=question).answer for voter in self.voters]
        return dspy.Prediction(answer=max(sorted(votes), key=votes.count))
