"""Every distillation method: the one list that tests of all methods read."""

from tmkd_lightning.distillers import CATKD, KD, RKD, SP, QueueKL, TeKAP

METHODS = {"kd": KD, "rkd": RKD, "sp": SP, "cat_kd": CATKD, "tekap": TeKAP, "queue_kl": QueueKL}
