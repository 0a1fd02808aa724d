"""OpenAI's Responses: translated into chats, whose texts become items and events again."""
