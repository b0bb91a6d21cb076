"""Wrong answers that learners give, and some words of what each should be told. One module for each chapter."""

MISTAKES = []  # exercise, name of the mistake, answer, words of the message


def mistake(exercise, name, words, *answer):
    "Note an answer, or, without one, the function or class that follows."

    def note(answer):
        MISTAKES.append((exercise, name, answer, words))
        return answer

    return note(*answer) if answer else note
