"""The words that lists have for target (the same speaker) and nontarget."""

LABEL_OF_WORD = {"nontarget": 0, "target": 1, "imp": 0, "tgt": 1, "impostor": 0, "imposter": 0, "genuine": 1}
LABEL_OF_DIGIT = {"0": 0, "1": 1}
WORD_OF_LABEL = ("nontarget", "target")  # as they are written
