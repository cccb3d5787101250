"""The heads of answers: what one says (`answerhead`), and how a usual one is read in a few steps (`plain`)."""
