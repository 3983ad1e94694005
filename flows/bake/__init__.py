"""The bake: whether a new release has more bad events than the stable one had. It only returns a judgement."""
