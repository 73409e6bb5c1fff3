#!/usr/bin/env python3
"""Writes tests/data/sampling.json: distributions after the logits processors of the transformers library, in float64.

Needs: pip install torch transformers.
"""
import json, pathlib, random

import torch
from transformers import LogitsProcessorList, MinPLogitsWarper, RepetitionPenaltyLogitsProcessor, TemperatureLogitsWarper, TopKLogitsWarper
from transformers import TopPLogitsWarper


def main():
    rng, cases = random.Random(1), []
    for _ in range(120):
        size = rng.choice([1, 2, 5, 20, 60])
        logits = [rng.gauss(0, rng.choice([0.1, 1, 4])) for _ in range(size)]
        if rng.random() < 0.3:
            logits = [float(round(x)) for x in logits]  # equals
        logits = torch.tensor(logits, dtype=torch.float32).double()
        if size > 2 and rng.random() < 0.2:
            logits[rng.randrange(size)] = -torch.inf
        options = {"temperature": rng.choice([1.0, 0.25, 0.7, 3.0]), "top_k": rng.choice([0, 1, 2, 7, 100]), "top_p": rng.choice([1.0, 0.9, 0.5, 0.1]),
                   "min_p": rng.choice([0.0, 0.05, 0.4]), "repetition_penalty": rng.choice([1.0, 1.3, 0.8])}
        if options["top_p"] < 1 and len(set(logits.tolist())) < size:
            options["top_p"] = 1.0  # which of equals top-p keeps is left open by an unstable sort
        seen = [rng.randrange(size) for _ in range(rng.randint(1, 6))]
        steps = LogitsProcessorList()
        if options["repetition_penalty"] != 1:
            steps.append(RepetitionPenaltyLogitsProcessor(options["repetition_penalty"]))
        steps.append(TemperatureLogitsWarper(options["temperature"]))
        if options["top_k"]:
            steps.append(TopKLogitsWarper(options["top_k"]))
        if options["top_p"] < 1:
            steps.append(TopPLogitsWarper(options["top_p"]))
        if options["min_p"]:
            steps.append(MinPLogitsWarper(options["min_p"]))
        out = torch.softmax(steps(torch.tensor([seen]), logits[None].clone()), -1)[0]
        cases.append({"options": options, "seen": seen, "logits": [None if x == -torch.inf else x for x in logits.tolist()], "p": out.tolist()})
    path = pathlib.Path(__file__).resolve().parent.parent / "data" / "sampling.json"
    path.write_text('{"cases": [\n' + ",\n".join(json.dumps(c) for c in cases) + "\n]}\n")


if __name__ == "__main__":
    main()
