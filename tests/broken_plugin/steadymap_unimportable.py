raise ImportError("needs what is\nnot here")
