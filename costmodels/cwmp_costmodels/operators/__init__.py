"""Regression of operators: joules or seconds of shapes that were never measured, from shapes of the same family that were.

    physics of each operator  ->  prior of the family     NNLS: joules (or seconds) per operation, byte, call
    log(value / prior)        ->  regression              Gaussian process for few samples, boosted trees above
    held-out blocks           ->  conformal intervals     normalised by the local spread and by the noise of the reading

- `sample`: one reading of one operator: family, variant, features, counts, value, noise, block.
- `prior`: the physics of a family: non-negative values per count.
- `regressors`: what is left of log(value / prior).
- `conformal`: intervals from errors on blocks that a fit never saw.
- `family`: the model of a family: `fit_family(samples)`, `FamilyModel.predict(sample)`, `to_json`, `from_json`.
- `step`: the sum over the operators of a step, with its interval and what of it is out of range.

How to use it:

    samples = [sample_of(operator, device, value, noise=0.03, block="resnet-like-7"), ...]    # joules, or seconds
    models = {family: fit_family(own) for family, own in by_family(samples).items()}
    one = models["conv"].predict(sample_of(operator, device))       # .value .low .high .outside (why no claim is made)
    whole = predict_step([(sample, times), ...], models, slope=0.02)  # .value .low .high .outside_share .outside

A block is what is held out together: readings that resemble each other (the layers of one model, one shape at several distances) share
one. `outside` is empty where every feature lies within what was measured of that family.
"""
