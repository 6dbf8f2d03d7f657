// Shows the document of the service that served this page. No validator: it would be
// asked on another host.
SwaggerUIBundle({
  url: '/v3/api-docs',
  dom_id: '#api',
  deepLinking: true,
  docExpansion: 'none',
  operationsSorter: 'alpha',
  tagsSorter: 'alpha',
  validatorUrl: null,
});
