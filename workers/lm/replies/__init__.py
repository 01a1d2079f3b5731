"""Replies of providers, checked before lm15 reads them: what lm15 would lose, misread or drop."""
