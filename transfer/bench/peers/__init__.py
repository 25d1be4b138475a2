"""Other libraries that run our networks on the very same weights, to be timed side by side with ours.

Each peer lives in a process of its own, which sleeps on a pipe while others run. The thread pools of several
libraries in one process might spin against each other; they do not. ResNet-50 at 32 px, batch 64, 2 cores: every
ratio to OpenVINO was within 2 % of the same ratio taken in one process, whether ours ran beside them or in the
parent. What decides is that Keras needs other settings of JAX than we do, that a library may end its process, and
that nobody imports what only a peer needs.
"""
