"""What is there before we begin: `foreign` is a file of another program, `journal` and `cleaning` are for what a crash
left; `lookup` distinguishes a part of ours from the rest, `held` looks at the sizes without changing anything.
"""
