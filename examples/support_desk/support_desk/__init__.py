"""The programs of a support desk: answers from documents, an agent with tools, and a classifier of tickets."""
