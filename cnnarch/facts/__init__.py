"""What is true of the networks and is not their code; standard library only.

Builders by name, the fact sheets beside the model files, and the cards made from them.
"""
