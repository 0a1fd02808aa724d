"""The OpenAI API: routes, request and response schemas, streaming."""
