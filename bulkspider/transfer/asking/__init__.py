"""How an attempt asks its origin: `destinations` decides where a request may go and which secrets it carries there,
`sender` sends it, `exchange` has the head of each answer judged, `bound` limits how many bytes are asked for at once.
"""
