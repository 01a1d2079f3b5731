"""Tickets and the queues they belong to: some for the optimiser, others to evaluate the result."""

__all__ = ["HELD_OUT", "TRAINING"]

TRAINING = [
    ("My card was charged twice for one order.", "billing"),
    ("The parcel has not arrived after nine days.", "delivery"),
    ("The lamp flickers and then goes dark.", "fault"),
    ("Please send me the invoice for March.", "billing"),
    ("Where is my package?", "delivery"),
    ("The switch is broken.", "fault"),
    ("Why do I pay 12 euros more than the price on the page?", "billing"),
    ("The courier left the box at the wrong house.", "delivery"),
    ("The battery does not charge any more.", "fault"),
    ("I have not got my money back.", "billing"),
    ("Can it be delivered on Saturday?", "delivery"),
    ("There is a crack in the glass.", "fault"),
    ("I want to pay by bank transfer instead.", "billing"),
    ("The tracking number does not work.", "delivery"),
    ("It makes a loud noise when I turn it on.", "fault"),
    ("The discount was not taken off.", "billing"),
    ("My order was sent to my old address.", "delivery"),
    ("The screen stays black.", "fault"),
]

HELD_OUT = [
    ("You took the money for an order that I cancelled.", "billing"),
    ("The invoice has the wrong name on it.", "billing"),
    ("I was billed for two lamps and bought one.", "billing"),
    ("How long does the shipping to Austria take?", "delivery"),
    ("The package was left in the rain by the driver.", "delivery"),
    ("My parcel is stuck at the depot.", "delivery"),
    ("The lamp does not turn on.", "fault"),
    ("One of the buttons came off.", "fault"),
    ("It gets so hot that it smells burnt.", "fault"),
]
